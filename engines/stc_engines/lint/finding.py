"""What a check finds, and what it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stc_engines.lint.graph import Graph, Node

#: ``error``: no engine, or wrong numbers. ``slow``: an engine that is slower than it could be.
Level = Literal["error", "slow"]
#: A release of TensorRT.
Version = tuple[int, int]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: How bad it is.
        rule: Name of the check, e.g. ``operator``.
        graph: Path of the graph; empty if it concerns the whole bundle.
        node: Name of the node; empty if it concerns the whole graph.
        op: Its operator.
        module: Place in the PyTorch module that it was traced from.
        problem: One sentence.
        fix: One sentence: what to do.
    """

    level: Level
    rule: str
    graph: str
    node: str
    op: str
    module: str
    problem: str
    fix: str


@dataclass(frozen=True)
class Setting:
    """What graphs are checked against.

    Attributes:
        version: Release of TensorRT; ``None`` if none of the rules that depend on it applies.
        most: Largest value of each letter in shapes, from the optimisation profiles.
    """

    version: Version | None = None
    most: Mapping[str, int] | None = None


Rule = Callable[[Graph, Setting], Iterator[Finding]]


def at_node(level: Level, rule: str, graph: Graph, node: Node, problem: str, fix: str) -> Finding:
    """Return a finding about a node."""
    return Finding(level, rule, graph.file, node.name, node.op, node.module, problem, fix)


def version_text(version: Version) -> str:
    """Return ``10.3`` for (10, 3)."""
    return f"{version[0]}.{version[1]}"
