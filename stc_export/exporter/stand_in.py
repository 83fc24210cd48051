"""Write a bfloat16 graph in a form that a CPU can run, for the parity check.

ONNX Runtime has next to no kernels in bfloat16 on a CPU. A stand-in has the same operators, weights, inputs and
outputs, computes each operator in float32 and rounds what it gives to bfloat16. So it shows what the type costs in
accuracy and where it overflows. An engine differs in where exactly it rounds: not between operators that it joins into
one kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from stc_export.spec.manifest import TensorSpec

#: In which form a stand-in computes, for reports.
FORM = "float32 rounded to bfloat16"
#: Operators that give bfloat16 without computing in it, and of which a CPU has kernels.
_KEPT = frozenset({"Cast", "Constant", "ConstantOfShape"})


def needs_stand_in(ports: Iterable[TensorSpec]) -> bool:
    """Whether a graph with these inputs and outputs computes in a type that a CPU has no kernels for."""
    return any(spec.dtype == "bfloat16" for spec in ports)


def write_stand_in(source: Path, path: Path) -> None:
    """Write the stand-in of a graph into the same folder, where it refers to the same weight files."""
    model = ir.load(source)
    graph = model.graph
    nodes = list(graph)
    fed = [value for value in (*graph.inputs, *graph.initializers.values()) if value.dtype == ir.DataType.BFLOAT16]
    graph.insert_before(nodes[0], [_read_wide(value) for value in fed])
    for node in nodes:
        for value in node.outputs:
            if value.dtype != ir.DataType.BFLOAT16:
                continue
            if node.op_type in _KEPT:
                graph.insert_after(node, _read_wide(value))
            else:
                graph.insert_after(node, _round(graph, value))
    ir.save(model, path)


def _read_wide(value: ir.Value) -> ir.Node:
    """Let whoever reads a bfloat16 value read it as float32 instead."""
    readers = list(value.uses())
    wide = _cast(value, ir.DataType.FLOAT, f"{value.name}/wide")
    for reader, index in readers:
        reader.replace_input_with(index, wide.outputs[0])
    return wide


def _round(graph: ir.Graph, value: ir.Value) -> list[ir.Node]:
    """Let an operator give a value in float32, which is rounded under its old name before anyone reads it."""
    name = str(value.name)
    value.name, value.dtype = f"{name}/exact", ir.DataType.FLOAT
    readers = list(value.uses())
    rounded = _cast(value, ir.DataType.BFLOAT16, name)
    wide = _cast(rounded.outputs[0], ir.DataType.FLOAT, f"{name}/wide")
    for reader, index in readers:
        reader.replace_input_with(index, wide.outputs[0])
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = rounded.outputs[0]
    return [rounded, wide]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype})
    made = node.outputs[0]
    made.name, made.dtype, made.shape = name, dtype, value.shape
    return node
