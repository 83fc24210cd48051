"""Which settings are worth considering: those that no other one beats in both of two quantities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tradeoff:
    """What something costs and what it gives; neither is NaN.

    Attributes:
        cost: Less is better.
        gain: More is better.
    """

    cost: float
    gain: float


def dominates(one: Tradeoff, other: Tradeoff) -> bool:
    """Return whether ``one`` is at least as good in both quantities, and better in one."""
    return one.cost <= other.cost and one.gain >= other.gain and one != other


def on_front(points: Sequence[Tradeoff]) -> tuple[bool, ...]:
    """Return for each point whether it is on the Pareto front: no other point dominates it.

    Equal points are on the front together or not at all. Uncertainty is not considered.
    """
    return tuple(not any(dominates(other, point) for other in points) for point in points)
