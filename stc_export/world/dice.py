"""Random numbers that are the same on every machine and in every version of numpy."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    T = TypeVar("T")


def stream(name: str) -> np.random.RandomState:
    """Return the stream of a name.

    ``RandomState`` and not ``Generator``: its streams are frozen for ever (NumPy Enhancement Proposal 19), and only
    its integers are used, since those of floating point depend on the machine's mathematical library.

    Args:
        name: Anything; different names give unrelated streams.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.RandomState(seed)


class Dice:
    """Draws for one clip.

    Args:
        name: Name of the stream.
    """

    def __init__(self, name: str) -> None:
        self._stream = stream(name)

    def between(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return int(self._stream.randint(low, high + 1))

    def chance(self, percent: int) -> bool:
        """Return True in so many of 100 cases."""
        return self.between(1, 100) <= percent

    def pick(self, values: Sequence[T]) -> T:
        """Return one of the values."""
        return values[self.between(0, len(values) - 1)]

    def some(self, values: Sequence[T], count: int) -> list[T]:
        """Return so many different ones of the values, in random order."""
        rest = list(values)
        return [rest.pop(self.between(0, len(rest) - 1)) for _ in range(count)]

    def times(self, count: int, first: int, last: int, gap: int) -> list[int]:
        """Return up to ``count`` frames from first to last, sorted, at least ``gap`` apart."""
        room = last - first - gap * (count - 1)
        if count <= 0 or last < first:
            return []
        if room < 0:
            return self.times(count - 1, first, last, gap)
        offsets = sorted(self.between(0, room) for _ in range(count))
        return [first + offset + gap * place for place, offset in enumerate(offsets)]
