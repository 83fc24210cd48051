"""Rounding of what flows into linear layers by scales that were chosen before: operators that TensorRT knows.

A layer whose weight comes from a ``DequantizeLinear`` gets a ``QuantizeLinear`` and a ``DequantizeLinear`` before its
other input: a compiler joins the three and the ``Gemm`` into a product of numbers of 8 bits. Before there are scales, a
graph can be written that shows what flows in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from stc_calib.schemes import Arithmetic
from stc_export.spec.manifest import TensorSpec
from stc_runtime.dtypes import declared

#: Code of 0 in the type that activations are rounded to.
_ZEROS: Mapping[Arithmetic, ir.DataType] = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}


@dataclass(frozen=True)
class Tap:
    """A further output of a graph.

    Attributes:
        layers: Names of the weights of the layers that it flows into.
        port: The output.
    """

    layers: tuple[str, ...]
    port: TensorSpec


def write_taps(source: Path, path: Path) -> tuple[Tap, ...]:
    """Write a graph whose further outputs are what flows into its layers, into the same folder.

    Args:
        source: Graph whose weights are rounded, and whose activations are not yet.
        path: File to write.
    """
    model = ir.load(source)
    fed: dict[str, list[str]] = {}
    for layer, gemm in _layers(model):
        value = gemm.inputs[0]
        if value is not None:
            fed.setdefault(str(value.name), []).append(layer)
            if value not in model.graph.outputs:
                model.graph.outputs.append(value)
    ports = {str(value.name): value for value in model.graph.outputs}
    ir.save(model, path)
    return tuple(Tap(tuple(layers), _spec(ports[name])) for name, layers in fed.items())


def write_activations(path: Path, scales: Mapping[str, float], arithmetic: Arithmetic) -> None:
    """Let a graph round what flows into its layers.

    Args:
        path: Graph, which is written anew.
        scales: Weight of a layer -> what a step of its input is worth.
        arithmetic: What activations are rounded to.
    """
    model = ir.load(path)
    zero = _constant("rounding.zero", np.zeros((), np.int8), _ZEROS[arithmetic])
    model.graph.register_initializer(zero)
    for layer, gemm in _layers(model):
        x = gemm.inputs[0]
        if x is None or x.dtype is None:
            raise ValueError(f"{layer} has an input without a type")
        scale = _constant(f"{layer}.step", np.array(scales[layer], np.float32), x.dtype)
        model.graph.register_initializer(scale)
        rounded = ir.node("QuantizeLinear", [x, scale, zero], name=f"{layer}/round")
        restored = ir.node("DequantizeLinear", [rounded.outputs[0], scale, zero], name=f"{layer}/restore")
        rounded.outputs[0].name, restored.outputs[0].name = f"{layer}/rounded", f"{layer}/restored"
        restored.outputs[0].type, restored.outputs[0].shape = x.type, x.shape
        model.graph.insert_before(gemm, [rounded, restored])
        gemm.replace_input_with(0, restored.outputs[0])
    ir.save(model, path)


def _layers(model: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Yield the layers over rounded weights by the names of these."""
    for node in list(model.graph):
        weight = node.inputs[1].producer() if node.op_type == "Gemm" and node.inputs[1] is not None else None
        if weight is not None and weight.op_type == "DequantizeLinear" and weight.inputs[0] is not None:
            yield str(weight.inputs[0].name), node


def _constant(name: str, value: NDArray[Any], dtype: ir.DataType) -> ir.Value:
    tensor = ir.Tensor(value.astype(dtype.numpy()), dtype=dtype, name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=tensor.shape, const_value=tensor)


def _spec(value: ir.Value) -> TensorSpec:
    if value.dtype is None or value.shape is None:
        raise ValueError(f"{value.name} has no type")
    kind = "bfloat16" if value.dtype == ir.DataType.BFLOAT16 else declared(value.dtype.numpy())
    return TensorSpec(str(value.name), kind, tuple(d if isinstance(d, int) else str(d.value) for d in value.shape))
