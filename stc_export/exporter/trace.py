"""Trace a module without its weights and write an ONNX file that refers to the bundle's weight files.

The module lives on the meta device, so tracing a 7B decoder needs memory for the graph only. Flavour ``base`` is opset
18, so that TensorRT 10.3 and every ONNX Runtime can read it; ``modern`` is opset 24, which has operators for attention
and for a cache that is written in place. Nothing of ``com.microsoft`` is written, unless weights are rounded for ONNX
Runtime (:mod:`stc_export.exporter.quantised`), and int4 brings its own opset.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset18

from stc_export.exporter.graphs import GraphDef
from stc_export.exporter.operators import TRANSLATIONS
from stc_export.exporter.quantised import write_rounded
from stc_export.exporter.weights import StoredTensor
from stc_export.spec.manifest import Flavour, TensorSpec

OPSETS: Mapping[Flavour, int] = {"base": 18, "modern": 24}
#: Constants of up to so many elements are kept in the graph itself.
_MOST_INLINE = 4096

_IR_DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int64": ir.DataType.INT64,
    "uint8": ir.DataType.UINT8,
    "int8": ir.DataType.INT8,
}


class TraceError(RuntimeError):
    """A traced graph that does not have its declared interface: a defect of the family, not of the user's input."""


def trace(graph: GraphDef, stored: Mapping[str, Mapping[str, StoredTensor]], path: Path) -> tuple[str, ...]:
    """Trace a graph and write it to ``path``, next to its weight files.

    Args:
        graph: What to trace.
        stored: Where weights lie: weight file -> name of the parameter -> place.
        path: ONNX file to write.

    Returns:
        Names of the weight files that the graph refers to.

    Raises:
        TraceError: The traced graph has other inputs, outputs, types or dimensions than declared.
    """
    model = _exported(graph)
    _name_dimensions(model, graph)
    _simplify(model)
    files = _attach_weights(model, {name: place for file in graph.weight_files for name, place in stored[file].items()})
    _check_interface(model, graph)
    model.producer_name, model.producer_version = "stc-export", None
    _strip_metadata(model)
    ir.save(model, path)
    return files


def _exported(graph: GraphDef) -> ir.Model:
    with torch.device("meta"):
        module = graph.module().eval()
        example = [_example(spec, graph) for spec in graph.inputs]
    dims = {name: torch.export.Dim(name, min=max(d.least, 1), max=d.most) for name, d in graph.dims.items()}
    shapes = [{i: dims[d] for i, d in enumerate(spec.shape) if isinstance(d, str)} or None for spec in graph.inputs]
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            module,
            graph.nest(example),
            dynamic_shapes=graph.nest(shapes),
            strict=False,
            # Reshapes raise guards such as min(S, S * S) == S, which hold but which the solver cannot prove.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        exported = torch.onnx.export(
            program,
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            opset_version=OPSETS[graph.flavour],
            dynamo=True,
            custom_translation_table={torch.ops.aten.index_put.default: _scatter_rows, **TRANSLATIONS},
            optimize=False,
            verbose=False,
        )
    model: ir.Model = exported.model
    return model


def _scatter_rows(self: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:  # noqa: FBT001, FBT002
    """Translate ``x.index_put(rows, values)``, indices of one shape; the general translation adds transposes."""
    if accumulate or any(index is None for index in indices):
        raise TraceError("only x.index_put(rows, values) for the leading axes is exported")
    columns = [opset18.Unsqueeze(index, opset18.Constant(value_ints=[-1])) for index in indices]
    return opset18.ScatterND(self, columns[0] if len(columns) == 1 else opset18.Concat(*columns, axis=-1), values)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of itself (such as that torchvision is absent); errors still surface."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _example(spec: TensorSpec, graph: GraphDef) -> Any:
    shape = [graph.dims[d].example if isinstance(d, str) else d for d in spec.shape]
    return torch.empty(shape, dtype=getattr(torch, spec.dtype))


def _name_dimensions(model: ir.Model, graph: GraphDef) -> None:
    """Replace the exporter's symbols (``s37``) by the letters of the interface, in expressions too (``4*s37``)."""
    letters = {
        str(found): letter
        for value, spec in zip(model.graph.inputs, graph.inputs, strict=True)
        for found, letter in zip(_dims(value), spec.shape, strict=True)
        if isinstance(letter, str)
    }
    if not letters:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, letters)) + r")\b")
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            dims = [d if isinstance(d, int) else pattern.sub(lambda m: letters[m[0]], str(d)) for d in _dims(value)]
            value.shape = ir.Shape(dims)


def _simplify(model: ir.Model) -> None:
    from onnxscript import optimizer

    optimizer.fold_constants(
        model, input_size_limit=64, output_size_limit=_MOST_INLINE, should_fold=_refuse_without_data
    )
    for one in (
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
    ):
        one(model)


def _refuse_without_data(node: ir.Node) -> bool | None:
    """Say no to what a graph computes of a parameter alone; the optimizer decides the rest."""
    return False if any(value is not None and _on_meta(value) for value in node.inputs) else None


def _attach_weights(model: ir.Model, stored: Mapping[str, StoredTensor]) -> tuple[str, ...]:
    files: set[str] = set()
    for name, value in list(model.graph.initializers.items()):
        place = stored.get(name)
        if place is None:
            if _is_weight(value):
                raise TraceError(f"no stored weight for the initializer {name}")
            continue
        shape = tuple(value.shape.numpy()) if value.shape is not None else ()
        if int(torch.Size(shape).numel()) != int(torch.Size(place.shape).numel()):
            raise TraceError(f"{name} is {shape} in the graph and {place.shape} in the weight file")
        files.add(place.file)
        if place.scheme is not None:
            write_rounded(model, value, place)
            continue
        value.const_value = ir.ExternalTensor(
            place.file, place.offset, place.length, _IR_DTYPES[place.dtype], shape=ir.Shape(shape), name=name
        )
    return tuple(sorted(files))


def _is_weight(value: ir.Value) -> bool:
    """Tell a parameter, which has no data, or a table too large to stand in the graph, from a small constant."""
    tensor = value.const_value
    return tensor is None or tensor.size > _MOST_INLINE or _on_meta(value)


def _on_meta(value: ir.Value) -> bool:
    data = getattr(value.const_value, "raw", None)
    return isinstance(data, torch.Tensor) and data.is_meta


def _check_interface(model: ir.Model, graph: GraphDef) -> None:
    for kind, values, specs in (
        ("input", list(model.graph.inputs), graph.inputs),
        ("output", list(model.graph.outputs), graph.outputs),
    ):
        found = [(v.name, v.dtype, _dims(v)) for v in values]
        expected = [(s.name, _IR_DTYPES[s.dtype], list(s.shape)) for s in specs]
        for got, want in itertools.zip_longest(found, expected):
            if got != want:
                raise TraceError(f"{graph.file}: {kind} is {got}, declared {want}")


def _dims(value: ir.Value) -> list[Any]:
    shape = value.shape if value.shape is not None else ()
    return [d if isinstance(d, int) else str(d.value) for d in shape]


def _strip_metadata(model: ir.Model) -> None:
    """Remove source paths and stack traces of the exporting machine; keep the PyTorch module that a node came from."""
    keep = "pkg.torch.onnx.name_scopes"
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        for key in [k for k in node.metadata_props if k != keep]:
            del node.metadata_props[key]
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
