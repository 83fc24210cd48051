"""Whether attention can become one kernel.

TensorRT replaces MatMul, Softmax, MatMul by a fused kernel when types, layout and head width allow it, and says nothing
when they do not (documentation of TensorRT, "Transformers: fused attention").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from stc_engines.lint.finding import Finding, Rule, Setting, at_node
from stc_engines.lint.graph import Graph, Node

#: Types that there are fused kernels for.
_FUSED_TYPES = frozenset({"float16", "bfloat16"})
#: Width of a head: least, most, multiple.
_LEAST_WIDTH, _MOST_WIDTH, _WIDTH_STEP = 16, 256, 8
#: What may stand between the two products and the softmax.
_JOINS = frozenset({"Concat", "Split", "Slice"})
_BETWEEN = _JOINS | {"Add", "Mul", "Div", "Cast", "Where", "Reshape", "Identity"}

_MODULE = "It costs time, not correctness; only another export of this module changes it."
_MODEL = "It costs time, not correctness; only another model changes it."


@dataclass(frozen=True)
class _Pattern:
    """MatMul, what follows it, Softmax, what follows that, MatMul.

    Attributes:
        scores: The product before the softmax, or one of several that are joined.
        before: What stands between it and the softmax, from the softmax up.
        after: What stands between the softmax and the next product, or the first of several.
    """

    scores: Node
    before: tuple[Node, ...]
    after: tuple[Node, ...]


@dataclass(frozen=True)
class _Links:
    """Who makes each tensor, and who is the first to use it."""

    makers: Mapping[str, Node]
    users: Mapping[str, Node]


def attention(graph: Graph, _setting: Setting) -> Iterator[Finding]:
    """Find attention that does not become one kernel."""
    links = _Links(
        {out.name: node for node in graph.nodes for out in node.outputs},
        {fed.name: node for node in reversed(graph.nodes) for fed in node.inputs},
    )
    for node in graph.nodes:
        pattern = _find(links, node) if node.op == "Softmax" else None
        for reason, fix in [] if pattern is None else _reasons(pattern):
            problem = f"This attention does not become one kernel: {reason}."
            yield at_node("slow", "attention", graph, node, problem, fix)


def _find(links: _Links, softmax: Node) -> _Pattern | None:
    before, scores = _walk(softmax, lambda node: _above(links, node))
    after, product = _walk(softmax, lambda node: _below(links, node))
    if scores is None or product is None:
        return None
    return _Pattern(scores, before, after)


def _walk(start: Node, step: Callable[[Node], Node | None]) -> tuple[tuple[Node, ...], Node | None]:
    """Return the nodes up to the next MatMul, and that MatMul."""
    passed: list[Node] = []
    node = step(start)
    while node is not None and node.op in _BETWEEN:
        passed.append(node)
        node = step(node)
    return tuple(passed), node if node is not None and node.op == "MatMul" else None


def _above(links: _Links, node: Node) -> Node | None:
    """Return the node through which the scores come: a mask, a scale or a weight is not one of these."""
    makers = [links.makers[fed.name] for fed in node.inputs if fed.name in links.makers]
    return next((maker for maker in makers if maker.op == "MatMul" or maker.op in _BETWEEN), None)


def _below(links: _Links, node: Node) -> Node | None:
    return next((links.users[out.name] for out in node.outputs if out.name in links.users), None)


def _reasons(pattern: _Pattern) -> Iterator[tuple[str, str]]:
    query = pattern.scores.inputs[0]
    if query.dtype and query.dtype not in _FUSED_TYPES:
        yield f"there is none for {query.dtype}", "Build with --precision fp16."
    if any(node.op == "Cast" for node in (*pattern.before, *pattern.after)):
        yield "the softmax has another type than the products", _MODULE
    if any(node.op in _JOINS for node in (*pattern.before, *pattern.after)):
        yield "scores of several products are joined for one softmax", _MODULE
    width = query.shape[-1] if query.shape else None
    if isinstance(width, int) and not (_LEAST_WIDTH <= width <= _MOST_WIDTH and width % _WIDTH_STEP == 0):
        yield f"heads are {width} wide, not {_LEAST_WIDTH} to {_MOST_WIDTH} in steps of {_WIDTH_STEP}", _MODEL
    elif width is not None and not isinstance(width, int):
        yield "the width of a head is not a fixed number", _MODULE


ATTENTION_RULES: tuple[Rule, ...] = (attention,)
