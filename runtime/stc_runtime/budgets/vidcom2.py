"""Frame budgets of VidCom2 (arXiv 2505.14454, section 3): a frame that differs from the clip gets more tokens.

The published form shares out the tokens of a whole clip. Here the clip of a frame is what a stream has of it: the last
W frames and the frame itself. Its own budget in that clip is taken, and never revised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stc_runtime.budgets.base import Allotment, FrameSize, Look, Remainder, looked_at, norms

#: Temperature of the softmax over the frames (tau of the paper).
TEMPERATURE = 0.01


class UniquenessBudget:
    """K from the frame's uniqueness among the last W frames and itself (F of them).

    With ``g`` the mean of all tokens of the clip: ``u_t = -mean_m cos(z_tm, g)``, ``sigma`` the softmax of
    ``(u - max u) / 0.01``, and the share ``r = keep * (1 + sigma - 1 / F)``. A frame gets at least one token and at
    most M; the paper has no bounds, its code has these.

    A frame is remembered by two vectors: the mean of its tokens, and the mean of its tokens scaled to length 1. The
    cosines with any ``g`` then have the mean ``unit . g / |g|``, so that this is the published sum and no estimate of
    it, although the tokens are gone.
    """

    def __init__(self, size: FrameSize, keep: float, window: int) -> None:
        """Reserve the memory of ``window`` frames and the current one, and share out ``keep`` of all tokens."""
        self._size, self._keep = size, keep
        # Rows of a ring, in any order: all sums over frames.
        self._means = np.zeros((window + 1, size.width), np.float64)
        self._units = np.zeros((window + 1, size.width), np.float64)
        self._remainder = Remainder(size.tokens)
        self._frames = 0

    @property
    def nbytes(self) -> int:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`: 16 (W + 1) D."""
        return self._means.nbytes + self._units.nbytes

    def allot(self, look: Look) -> Allotment:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        place = self._frames % len(self._means)
        self._push(place, looked_at(look))
        known = min(self._frames, len(self._means))
        share = self._keep * (1 + self._softmax(known)[place] - 1 / known)
        return Allotment(self._remainder.count(min(max(share * self._size.tokens, 1.0), self._size.tokens)))

    def reset(self) -> None:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        self._means.fill(0)
        self._units.fill(0)
        self._remainder.reset()
        self._frames = 0

    def _push(self, place: int, tokens: NDArray[np.float64]) -> None:
        self._means[place] = tokens.mean(axis=0)
        self._units[place] = (1 / norms(tokens)) @ tokens / len(tokens)
        self._frames += 1

    def _softmax(self, known: int) -> NDArray[np.float64]:
        """Return sigma [F] of the ``known`` frames of the clip."""
        centre = self._means[:known].mean(axis=0)
        unique = -(self._units[:known] @ centre) / norms(centre[None])[0]
        weights = np.exp((unique - unique.max()) / TEMPERATURE)
        # The paper adds 1e-8 to the sum. It holds exp(0), so that nothing needs it, and F shares would not sum to 1.
        softmax: NDArray[np.float64] = weights / weights.sum()
        return softmax
