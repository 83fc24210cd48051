"""Linear layers over whole numbers: activations are rounded to 8 bits as they come, weights were before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

#: Largest value of a token that is all zeros, so that it is not divided by 0.
_LEAST = 1e-30


def write_integer(model: ir.Model, gemm: ir.Node, codes: ir.Value, scales: ir.Value) -> None:
    """Replace a ``Gemm`` by ``MatMulInteger`` over int8 codes [out, in] with scales [out].

    Each token is divided by its largest absolute value, and 127 becomes 1. So what comes out for a token does not
    depend on the other tokens of the call, as it would with ``DynamicQuantizeLinear``: full and selective passes round
    alike, and one large token does not cost the others their bits. The codes of activations have 128 added, since ONNX
    Runtime is fast at uint8 times int8 only.
    """
    steps, narrow, wide = _Steps(model, gemm), scales.dtype, ir.DataType.FLOAT
    given, bias = steps.cast(gemm.inputs[0], narrow, wide), gemm.inputs[2] if len(gemm.inputs) > 2 else None
    axis, least = steps.constant("axis", np.array([1], np.int64)), steps.constant("least", np.float32(_LEAST))
    largest = steps.add(
        "Max", steps.add("ReduceMax", given, axis), steps.add("Neg", steps.add("ReduceMin", given, axis)), least
    )
    step, zero = steps.constant("step", np.float32(1 / 127)), steps.constant("zero", np.uint8(128))
    rounded = steps.add("QuantizeLinear", steps.add("Div", given, largest), step, zero)
    sums = steps.add("MatMulInteger", rounded, steps.add("Transpose", codes, perm=(1, 0)), zero)
    by_row = steps.add("Mul", steps.cast(scales, narrow, wide), step)
    product = steps.add("Mul", steps.add("Mul", steps.add("Cast", sums, to=wide), by_row), largest)
    result = steps.cast(product, wide, narrow)
    steps.finish(result if bias is None else steps.add("Add", result, bias))


class _Steps:
    """Operators in place of a ``Gemm``, made one after another, and the constants that all of a graph share."""

    def __init__(self, model: ir.Model, gemm: ir.Node) -> None:
        self._graph, self._gemm = model.graph, gemm
        self._nodes: list[ir.Node] = []

    def add(self, kind: str, *inputs: Any, **attributes: Any) -> ir.Value:
        """Return what an operator gives."""
        node = ir.node(kind, list(inputs), attributes)
        node.metadata_props.update(self._gemm.metadata_props)
        self._nodes.append(node)
        return node.outputs[0]

    def cast(self, value: Any, have: ir.DataType | None, want: ir.DataType | None) -> ir.Value:
        """Return a value in another type, or as it is if it has that."""
        return value if have == want else self.add("Cast", value, to=want)

    def constant(self, name: str, value: Any) -> ir.Value:
        """Return a constant of the graph."""
        name, known = f"rounding.{name}", self._graph.initializers
        if name not in known:
            array = np.asarray(value)
            tensor = ir.tensor(array, name=name)
            made = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            self._graph.register_initializer(made)
        return known[name]

    def finish(self, result: ir.Value) -> None:
        """Replace the ``Gemm``."""
        old = self._gemm.outputs[0]
        result.name, result.type, result.shape = old.name, old.type, old.shape
        ir.convenience.replace_nodes_and_values(self._graph, self._gemm, [self._gemm], self._nodes, [old], [result])
