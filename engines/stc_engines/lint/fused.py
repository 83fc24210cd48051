"""What TensorRT takes of the operators that base graphs do not have: ``Attention`` and ``TensorScatter``.

It refuses what it has no kernel for, instead of writing other operators for it. (Parser of onnx-tensorrt for 10.16 and
11.1, docs/operators.md; NvInfer.h; each rule was tried on TensorRT-RTX 1.7.1.)
"""

from __future__ import annotations

from collections.abc import Iterator

from stc_engines.lint.finding import Finding, Rule, Setting, at_node
from stc_engines.lint.graph import Graph, Node

#: Types that there are kernels of attention for.
_ATTENTION_TYPES = frozenset({"float16", "bfloat16"})
#: Width of a head. 8 is refused and 12 is taken; what lies between was not tried.
_LEAST_WIDTH, _MOST_WIDTH = 12, 256
#: Attributes of ``Attention`` that are taken with this value only.
_ONLY = {"softcap": 0.0, "softmax_precision": None}
#: Types of a cache that is written in place.
_CACHE_TYPES = frozenset({"float32", "float16", "bfloat16"})
#: Inputs of ``Attention`` before those for a cache of its own.
_PLAIN_INPUTS = 4

_MODULE = "Change the export of this module, or build the bundle in the flavour base."


def fused_attention(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find operators ``Attention`` that there is no kernel for."""
    for node in graph.nodes:
        for problem, fix in _attention_problems(node) if node.op == "Attention" else ():
            yield at_node("error", "attention", graph, node, f"TensorRT has no kernel for this: {problem}.", fix)


def _attention_problems(node: Node) -> Iterator[tuple[str, str]]:
    query, width = node.inputs[0], _last(node)
    if query.dtype and query.dtype not in _ATTENTION_TYPES:
        yield f"Attention in {query.dtype}", "Build with --precision fp16, or in the flavour base."
    if query.shape is not None and len(query.shape) != 4:
        yield f"Attention with {len(query.shape)} dimensions instead of 4", _MODULE
    elif not isinstance(width, int):
        yield "Attention with heads whose width is not a fixed number", _MODULE
    elif not _LEAST_WIDTH <= width <= _MOST_WIDTH:
        yield f"Attention with heads that are {width} wide, not {_LEAST_WIDTH} to {_MOST_WIDTH}", _MODULE
    for name, value in _ONLY.items():
        if node.attributes.get(name, value) != value:
            yield f"Attention with {name}", _MODULE
    if any(fed.name for fed in node.inputs[_PLAIN_INPUTS:]) or any(out.name for out in node.outputs[1:]):
        yield "Attention with a cache or scores of its own", _MODULE


def _last(node: Node) -> int | str | None:
    return node.inputs[0].shape[-1] if node.inputs[0].shape else None


def cache(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find caches that cannot be written in place."""
    fed = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        for problem in _cache_problems(node, fed, graph.outputs) if node.op == "TensorScatter" else ():
            yield at_node("error", "cache", graph, node, f"TensorRT writes a cache in place: {problem}.", _MODULE)


def _cache_problems(node: Node, fed: set[str], given: frozenset[str]) -> Iterator[str]:
    before, shape = node.inputs[0], node.inputs[0].shape
    if before.name not in fed or node.outputs[0].name not in given:
        yield "it must be an input of the graph, and come out as it is"
    if before.dtype and before.dtype not in _CACHE_TYPES:
        yield f"it must hold floating point numbers, and not {before.dtype}"
    if shape is None or len(shape) != 4:
        yield "it must have 4 dimensions"
    elif node.attributes.get("axis", -2) not in (-2, 2):
        yield "its slots must be its third dimension"
    elif not isinstance(shape[2], int):
        yield "the number of its slots must be part of the graph"
    if node.attributes.get("mode", "linear") != "linear":
        yield "it cannot begin again at its start"


FUSED_RULES: tuple[Rule, ...] = (fused_attention, cache)
