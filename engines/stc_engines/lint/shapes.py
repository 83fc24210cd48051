"""Whether all sizes are known before a graph runs, and small enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    producers = {out.name: node for node in graph.nodes for out in node.outputs}
    fed = {tensor.name for tensor in graph.inputs}
    known: dict[str, Origin] = {}
    for node in graph.nodes:
        places = [node.inputs[i] for i in _SIZES.get(node.op, ()) if i < len(node.inputs)]
        origin = max((_origin(t, producers, fed, known) for t in places), key=lambda o: o.value, default=Origin.SHAPE)
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


def _origin(tensor: Tensor, producers: Mapping[str, Node], fed: set[str], known: dict[str, Origin]) -> Origin:
    if not tensor.name or tensor.constant:
        return Origin.SHAPE
    if tensor.name in known:
        return known[tensor.name]
    node = producers.get(tensor.name)
    if node is None:
        found = Origin.INPUT if tensor.name in fed else Origin.SHAPE
    elif node.op in ("Shape", "Size", "Constant"):
        found = Origin.SHAPE
    elif node.op in _ARITHMETIC:
        found = max((_origin(t, producers, fed, known) for t in node.inputs), key=lambda o: o.value)
    else:
        found = Origin.DATA
    known[tensor.name] = found
    return found


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
