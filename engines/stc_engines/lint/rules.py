"""Which checks belong to which backend. Adding one is a function and a row here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from stc_engines.lint.attention import ATTENTION_RULES
from stc_engines.lint.fused import FUSED_RULES
from stc_engines.lint.operators import OPERATOR_RULES
from stc_engines.lint.shapes import SHAPE_RULES
from stc_engines.lint.types import TYPE_RULES

if TYPE_CHECKING:
    from stc_engines.lint.finding import Finding, Rule, Setting
    from stc_engines.lint.graph import Graph
    from stc_engines.table import BackendKind

_TENSORRT: tuple[Rule, ...] = (*OPERATOR_RULES, *TYPE_RULES, *SHAPE_RULES, *ATTENTION_RULES, *FUSED_RULES)
#: ONNX Runtime runs what ONNX allows, and every graph has run in it when the bundle was built.
RULES: Mapping[BackendKind, tuple[Rule, ...]] = {"ort": (), "trt": _TENSORRT, "trt-rtx": _TENSORRT}


def check_graph(graph: Graph, kind: BackendKind, setting: Setting) -> Iterator[Finding]:
    """Yield what is wrong with a graph on a backend."""
    for rule in RULES[kind]:
        yield from rule(graph, setting)
