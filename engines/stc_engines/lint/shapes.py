"""Whether all sizes are known before a graph runs, and small enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

from stc_engines.lint.finding import Finding, Rule, Setting, at_node
from stc_engines.lint.graph import Graph, Node, Tensor

#: The largest K of TensorRT's TopK (NvInfer.h; a build with 3841 is refused).
MOST_RANKED = 3840

#: Operators whose output is as long as the data say.
_DATA_DEPENDENT = frozenset({"NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit"})
#: Operator -> its inputs that are sizes or places.
_SIZES: Mapping[str, tuple[int, ...]] = {
    "TopK": (1,),
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 3, 4),
    "Pad": (1,),
    "Resize": (2, 3),
    "ConstantOfShape": (0,),
    "Split": (1,),
}
#: Operators through which a size stays a size.
_ARITHMETIC = frozenset(
    {"Squeeze", "Unsqueeze", "Reshape", "Cast", "Gather", "Slice", "Concat", "Identity", "Expand"}
    | {"Add", "Sub", "Mul", "Div", "Min", "Max", "ReduceProd", "Where", "Equal", "ConstantOfShape", "Neg", "Range"}
)


class Origin(Enum):
    """Where a size comes from, the worst last."""

    SHAPE = 0
    INPUT = 1
    DATA = 2


def data_dependent(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find outputs whose size depends on data: they need an allocator, and cannot be part of a CUDA graph."""
    for node in graph.nodes:
        if node.op in _DATA_DEPENDENT:
            yield at_node(
                "error",
                "data-dependent shape",
                graph,
                node,
                f"The size of what {node.op} gives depends on data.",
                "Choose a fixed number with TopK, whose K is the length of an input.",
            )


def sizes(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find sizes that are computed from data, or fed as numbers."""
    origins = {tensor.name: Origin.INPUT for tensor in graph.inputs}
    for node in graph.nodes:
        places = [node.inputs[i] for i in _SIZES.get(node.op, ()) if i < len(node.inputs)]
        origin = _worst(places, origins)
        origins |= dict.fromkeys((out.name for out in node.outputs), _given(node, origins))
        if origin is Origin.DATA:
            yield at_node(
                "error",
                "data-dependent shape",
                graph,
                node,
                f"{node.op} gets a size that is computed from data.",
                "Take it from the shape of an input instead.",
            )
        elif origin is Origin.INPUT:
            yield at_node(
                "slow",
                "data-dependent shape",
                graph,
                node,
                f"{node.op} gets a size that is fed as a number, which the host must hand over before each run.",
                "Take it from the shape of an input instead.",
            )


def _worst(tensors: Sequence[Tensor], origins: Mapping[str, Origin]) -> Origin:
    found = (origins.get(tensor.name, Origin.SHAPE) for tensor in tensors if not tensor.constant)
    return max(found, key=lambda origin: origin.value, default=Origin.SHAPE)


def _given(node: Node, origins: Mapping[str, Origin]) -> Origin:
    """Return where what a node gives comes from, if it is used as a size."""
    if node.op in ("Shape", "Size", "Constant"):
        return Origin.SHAPE
    return _worst(node.inputs, origins) if node.op in _ARITHMETIC else Origin.DATA


def ranking(graph: Graph, setting: Setting) -> Iterator[Finding]:
    """Find rankings of more tokens than the compiler can rank."""
    for node in graph.nodes:
        if node.op != "TopK":
            continue
        most = _most_ranked(node, setting)
        if most is not None and most > MOST_RANKED:
            yield at_node(
                "error",
                "TopK",
                graph,
                node,
                f"TopK is asked for up to {most:,} of its input, TensorRT gives at most {MOST_RANKED:,}.",
                "Rank within frames or rows, or choose fewer tokens.",
            )


def _most_ranked(node: Node, setting: Setting) -> int | None:
    """Return the largest K: a constant, or what the output's dimension can be."""
    k = node.inputs[1].value if len(node.inputs) > 1 else None
    if k:
        return k[0]
    shape = node.outputs[0].shape or ()
    axis = int(node.attributes.get("axis", -1))
    size = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    return size if isinstance(size, int) else (setting.most or {}).get(size or "")


SHAPE_RULES: tuple[Rule, ...] = (data_dependent, sizes, ranking)
