"""Read an ONNX file as the checks see it (see :mod:`stc_engines.lint.graph`); weights are not loaded."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper, shape_inference

from stc_engines.lint.graph import Dim, Graph, Node, Tensor
from stc_export.spec.errors import BundleError

#: Where the exporter of PyTorch writes from which module a node came.
_SCOPES = "pkg.torch.onnx.name_scopes"
#: Characters of a reason that an error shows.
_SHOWN = 200
#: Constants of more elements are not read.
_SMALL = 64


def read_nodes(path: Path, file: str) -> Graph:
    """Read a graph.

    Args:
        path: ONNX file.
        file: Its path in the bundle.

    Raises:
        BundleError: It is no ONNX graph.
    """
    try:
        return _read(path, file)
    except Exception as error:  # protobuf and onnx raise families of their own, and what passes them can still be odd
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(f'"{path}" is no ONNX graph ({reason[:_SHOWN]}).', "Build the bundle again.") from error


def _read(path: Path, file: str) -> Graph:
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path), load_external_data=False)
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    tensors = _tensors(inferred.graph)
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset > onnx.defs.onnx_opset_version():
        raise ValueError(f"it has opset {opset}, onnx {onnx.__version__} knows {onnx.defs.onnx_opset_version()}")
    weights = {weight.name for weight in inferred.graph.initializer}
    modules = _modules(inferred.graph.node, weights)
    nodes = tuple(_node(node, tensors, module) for node, module in zip(inferred.graph.node, modules, strict=True))
    outputs = frozenset(value.name for value in inferred.graph.output)
    return Graph(file, opset, nodes, tuple(tensors[value.name] for value in inferred.graph.input), outputs)


def _tensors(graph: Any) -> dict[str, Tensor]:
    found = {v.name: _value(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    for weight in graph.initializer:
        found[weight.name] = _constant(weight.name, weight)
    for node in graph.node:
        value = next((a.t for a in node.attribute if node.op_type == "Constant" and a.name == "value"), None)
        if value is not None:
            found[node.output[0]] = _constant(node.output[0], value)
    return found


def _value(value: Any) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(_dim(d) for d in kind.shape.dim) if kind.HasField("shape") else None
    return Tensor(value.name, _dtype(kind.elem_type), shape)


def _constant(name: str, tensor: Any) -> Tensor:
    shape = tuple(tensor.dims)
    whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    small = whole and tensor.data_location != onnx.TensorProto.EXTERNAL and math.prod(shape) <= _SMALL
    value = tuple(int(n) for n in numpy_helper.to_array(tensor).ravel()) if small else None
    return Tensor(name, _dtype(tensor.data_type), shape, value, constant=True)


def _dim(dim: Any) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def _dtype(kind: int) -> str:
    return "" if kind == onnx.TensorProto.UNDEFINED else str(helper.tensor_dtype_to_np_dtype(kind).name)


def _node(node: Any, tensors: dict[str, Tensor], module: str) -> Node:
    return Node(
        name=node.name or node.output[0],
        op=node.op_type,
        domain="" if node.domain == "ai.onnx" else node.domain,
        inputs=tuple(tensors.get(name, Tensor(name)) for name in node.input),
        outputs=tuple(tensors.get(name, Tensor(name)) for name in node.output),
        module=module,
        attributes={a.name: v for a in node.attribute for v in [_attribute(a)] if v is not None},
    )


def _attribute(attribute: Any) -> int | float | str | None:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, (int, float)) else None


def _modules(nodes: Any, weights: set[str]) -> Iterator[str]:
    """Yield where in the PyTorch module each node came from: its scope, or else the last weights before it."""
    made_by: dict[str, tuple[int, str]] = {}
    for place, node in enumerate(nodes):
        own = [name.rpartition(".")[0] for name in node.input if name in weights and "." in name]
        before = max((made_by[name] for name in node.input if name in made_by), default=(0, ""))
        where = (place, _scope(node) or own[0]) if _scope(node) or own else before
        if where[1]:
            made_by |= dict.fromkeys(node.output, where)
        yield where[1]


def _scope(node: Any) -> str:
    """Return the innermost module: the last scope is the operation itself, the first the whole module."""
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return ""
    inner = [scope for scope in scopes[:-1] if isinstance(scope, str) and not scope.startswith("_")]
    return inner[-1] if inner else ""
