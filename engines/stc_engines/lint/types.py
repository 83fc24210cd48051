"""Whether a strongly typed compiler takes the types of a graph as they are."""

from __future__ import annotations

from collections.abc import Iterator

from stc_engines.lint.finding import Finding, Rule, Setting, at_node
from stc_engines.lint.graph import Graph, Node

#: Types of tensors that TensorRT has, as ONNX calls them.
_TYPES = frozenset({"float32", "float16", "bfloat16", "int64", "int32", "bool", "int8", "uint8", "int4"}) | frozenset(
    {"float8_e4m3fn", "float4_e2m1", "float8_e8m0"}
)
#: What may be done with uint8, which TensorRT has at the border of a network only.
_TAKES_UINT8 = frozenset({"Cast", "Identity"})
#: Operators that may get two types by the definition of ONNX, which the parser casts.
_MIXED_BY_DEFINITION = frozenset(
    {"CastLike", "LayerNormalization", "RMSNormalization", "QuantizeLinear", "DequantizeLinear", "Resize", "Pow"}
    | {"Loop", "If", "Scan"}
)


def types(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find tensors of a type that the compiler does not have, or has at the border only."""
    for node in graph.nodes:
        foreign = sorted({t.dtype for t in (*node.inputs, *node.outputs) if t.dtype} - _TYPES)
        if foreign:
            yield at_node(
                "error", "type", graph, node, f"TensorRT has no {foreign[0]}.", "Cast it in the PyTorch module."
            )
        elif node.op not in _TAKES_UINT8 and any(t.dtype == "uint8" for t in (*node.inputs, *node.outputs)):
            yield at_node(
                "error",
                "type",
                graph,
                node,
                f"TensorRT takes uint8 as an input of the network only, and {node.op} computes with it.",
                "Cast it before anything else is done with it.",
            )


def mixed(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find operators that get floating point numbers of two types."""
    for node in graph.nodes:
        found = _float_types(node)
        if node.op not in _MIXED_BY_DEFINITION and len(found) > 1:
            yield at_node(
                "error",
                "mixed types",
                graph,
                node,
                f"{node.op} gets {' and '.join(found)}, and types are not cast silently.",
                "Cast one of them in the PyTorch module.",
            )


def _float_types(node: Node) -> list[str]:
    return sorted({t.dtype for t in node.inputs if "float" in t.dtype})


TYPE_RULES: tuple[Rule, ...] = (types, mixed)
