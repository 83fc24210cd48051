"""A graph as the checks see it: nodes with types and shapes. Read from ONNX elsewhere; no package is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: A number, a letter or an expression of letters, or nothing where it is not known.
Dim = int | str | None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a node.

    Attributes:
        name: Its name; empty for an optional one that is not there.
        dtype: For example ``float16``; empty where it is not known.
        shape: Its dimensions; ``None`` where not even their number is known.
        value: Its numbers, if it is a small constant of whole numbers.
        constant: Whether it is a weight or another constant.
    """

    name: str
    dtype: str = ""
    shape: tuple[Dim, ...] | None = None
    value: tuple[int, ...] | None = None
    constant: bool = False


@dataclass(frozen=True)
class Node:
    """One operator.

    Attributes:
        name: Its name.
        op: The operator.
        domain: Its domain; empty: ONNX.
        inputs: What goes in.
        outputs: What comes out.
        module: Where in the PyTorch module it came from, e.g. ``layers.3.qvk``: its own, or the last weights before it.
        attributes: Those that are a number or a text.
    """

    name: str
    op: str
    domain: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    module: str = ""
    attributes: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A graph.

    Attributes:
        file: Its path in the bundle.
        opset: Version of the ONNX operators.
        nodes: Its nodes in the order in which they run.
        inputs: What is fed.
        outputs: Names of what comes out.
    """

    file: str
    opset: int
    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...] = ()
    outputs: frozenset[str] = frozenset()
