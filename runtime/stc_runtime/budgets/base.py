"""How many tokens of a frame are kept: what decides it, and sums that stay exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import ParityError
from stc_runtime.dtypes import widened

#: Gives all visual tokens [M, D] of the frame. It runs the pruner graph, so that a budget asks for what it needs only.
Look = Callable[[], NDArray[Any]]

#: Shares are sums of binary fractions: three tenths ten times are 3 in spite of them.
_SLACK = 1e-9


@dataclass(frozen=True)
class FrameSize:
    """The visual tokens of a frame.

    Attributes:
        tokens: M.
        width: D.
        dtype: The type of numpy that carries them.
    """

    tokens: int
    width: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Allotment:
    """What one frame gets.

    Attributes:
        count: K, tokens that are kept; may be 0.
        remembered: Whether later frames are compared with this one: it enters the method's history.
    """

    count: int
    remembered: bool = True


class FrameBudget(Protocol):
    """Decides K frame by frame. It belongs to one stream, and all its memory is reserved when it is made."""

    @property
    def nbytes(self) -> int:
        """Bytes reserved, the same for life."""
        ...

    def allot(self, look: Look) -> Allotment:
        """Decide on the next frame.

        Args:
            look: Gives the frame's tokens.

        Raises:
            ParityError: They are not finite.
        """
        ...

    def reset(self) -> None:
        """Start a new stream."""
        ...


class FixedBudget:
    """The same K for every frame."""

    nbytes = 0

    def __init__(self, count: int) -> None:
        """Keep ``count`` tokens of each frame."""
        self._allotment = Allotment(count)

    def allot(self, look: Look) -> Allotment:
        """See :class:`FrameBudget`; the frame is not looked at."""
        del look
        return self._allotment

    def reset(self) -> None:
        """See :class:`FrameBudget`; nothing is remembered."""


class Remainder:
    """Whole tokens out of shares of a token: what is cut off one frame is added to the next.

    After every frame the counts sum to the whole part of the sum of the shares.
    """

    def __init__(self, most: int) -> None:
        """Give no frame more than ``most`` tokens. No share may be larger."""
        self._most = most
        self._rest = 0.0

    def count(self, share: float) -> int:
        """Return the tokens of a frame that is due ``share`` of them."""
        due = self._rest + share
        count = min(int(due + _SLACK), self._most)
        self._rest = due - count
        return count

    def reset(self) -> None:
        """Forget what is left over."""
        self._rest = 0.0


def looked_at(look: Look) -> NDArray[np.float64]:
    """Return the tokens [M, D] of a frame as numbers to compute with.

    Double precision, because a count is decided by them: sums of another order must not give another one.

    Raises:
        ParityError: A number is not finite.
    """
    tokens = widened(look()).astype(np.float64)
    if np.isfinite(tokens).all():
        return tokens
    raise ParityError(
        "The pruner gave visual tokens that are not finite: an overflow.", "Build the bundle with --precision fp32."
    )


def norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the length of each row [N]; at least 1e-8, as in the graphs, so that a cosine with zero is 0."""
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return np.maximum(lengths, 1e-8)
