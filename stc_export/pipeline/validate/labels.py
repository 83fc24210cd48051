"""Places for the labels of points in a plot, so that none hides another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
#: Directions that are tried at each distance, and the step from one distance to the next, in pixels.
_DIRECTIONS, _STEP = 16, 5.0
#: Distances that are tried.
_RINGS = 60


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, its edges parallel to the axes."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Return whether the two have an area in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top

    def within(self, other: Box) -> bool:
        """Return whether no part is outside ``other``."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


def box_around(x: float, y: float, width: float, height: float) -> Box:
    """Return the rectangle of this size around a point."""
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def place_labels(
    points: Sequence[Point], sizes: Sequence[tuple[float, float]], drawn: Sequence[Box], frame: Box
) -> list[Box]:
    """Return a box for the label of each point: near it, clear of what is drawn and of the other labels.

    Labels are placed in the order given. One for which there is no room lies over its own point.

    Args:
        points: What the labels belong to.
        sizes: Width and height of each label.
        drawn: What is there already.
        frame: What labels have to be inside of.
    """
    taken = list(drawn)
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        tried = (box for box in _candidates(point, size) if box.within(frame))
        free = (box for box in tried if not any(box.overlaps(other) for other in taken))
        placed.append(next(free, box_around(*point, *size)))
        taken.append(placed[-1])
    return placed


def _candidates(point: Point, size: tuple[float, float]) -> Iterator[Box]:
    """Yield boxes on squares around a point, the nearest first, beginning at its lower right."""
    for ring in range(1, _RINGS + 1):
        for turn in range(_DIRECTIONS):
            angle = 2 * math.pi * turn / _DIRECTIONS - math.pi / 4
            x, y = math.cos(angle), math.sin(angle)
            away = ring * _STEP / max(abs(x), abs(y))
            yield box_around(
                point[0] + x * away + round(x) * size[0] / 2, point[1] + y * away + round(y) * size[1] / 2, *size
            )
