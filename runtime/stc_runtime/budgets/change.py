"""Budgets from what changed since the frame before: DTD of TimeChat-Online (arXiv 2504.17343) and EVS (2510.14624).

Both compare each token with the one at the same place of the frame that was encoded last, the whole one. Frames that
the gate skips do not count: they are the frame before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.memory import kept_tokens
from stc_runtime.budgets.base import Allotment, FrameSize, Look, looked_at, norms
from stc_runtime.dtypes import narrowed, widened

#: What EVS gives the tokens of a first frame, which has nothing to be compared with.
FIRST = 255.0


class Previous:
    """The tokens of the frame before."""

    def __init__(self, size: FrameSize) -> None:
        """Reserve the memory of one frame."""
        self._tokens = np.zeros((size.tokens, size.width), size.dtype)
        self._norms = np.zeros(size.tokens, np.float64)
        self._known = False

    @property
    def nbytes(self) -> int:
        """Bytes reserved, the same for life."""
        return self._tokens.nbytes + self._norms.nbytes

    def cosines(self, tokens: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Return the cosine [M] of each token with the one before at its place, and remember ``tokens`` [M, D].

        ``None`` for the first frame.
        """
        lengths, found = norms(tokens), None
        if self._known:
            products = np.einsum("nd,nd->n", tokens, widened(self._tokens).astype(np.float64))
            found = products / (lengths * self._norms)
        self._tokens[...] = narrowed(tokens, self._tokens.dtype)
        self._norms[...], self._known = lengths, True
        return found

    def reset(self) -> None:
        """Forget the frame."""
        self._tokens.fill(0)
        self._norms.fill(0)
        self._known = False


class ChangedBudget:
    """``dtd``: as many tokens as changed, which can be all and none. The first frame stays whole.

    A token has changed unless its cosine is above the threshold.
    """

    def __init__(self, size: FrameSize, threshold: float) -> None:
        """Reserve the memory of one frame."""
        self._size, self._threshold = size, threshold
        self._previous = Previous(size)

    @property
    def nbytes(self) -> int:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`: M D tokens."""
        return self._previous.nbytes

    def allot(self, look: Look) -> Allotment:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        cosines = self._previous.cosines(looked_at(look))
        known = 0 if cosines is None else int((cosines > self._threshold).sum())
        return Allotment(self._size.tokens - known)

    def reset(self) -> None:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        self._previous.reset()


class RankedBudget:
    """``evs``: as many tokens as a frame has among the best of the last W frames and itself (F of them).

    EVS ranks the dissimilarities of all tokens of a video once, those of the first frame as 255, and keeps the best
    max(M, keep F M); of equal ones the earlier stays. Here the video of a frame is what a stream has of it, and what
    was kept of earlier frames is kept. The total of the stream would drift away from the published one by that, so that
    one is the limit: after n frames no more than max(M, keep n M) tokens were kept.
    """

    def __init__(self, size: FrameSize, keep: float, window: int) -> None:
        """Reserve the memory of one frame, and of the dissimilarities of ``window`` frames and the current one."""
        self._size, self._keep = size, keep
        self._previous = Previous(size)
        # Oldest first, so that the order of the flat array is that of the stream.
        self._scores = np.zeros((window + 1, size.tokens), np.float64)
        self._frames = 0
        self._spent = 0

    @property
    def nbytes(self) -> int:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`: M D tokens and 8 (W + 1) M."""
        return self._previous.nbytes + self._scores.nbytes

    def allot(self, look: Look) -> Allotment:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        cosines = self._previous.cosines(looked_at(look))
        self._scores[:-1] = self._scores[1:]
        self._scores[-1] = FIRST if cosines is None else 1 - cosines
        self._frames += 1
        count = min(self._ranked(), self._total(self._frames) - self._spent)
        self._spent += count
        return Allotment(count)

    def reset(self) -> None:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        self._previous.reset()
        self._scores.fill(0)
        self._frames = self._spent = 0

    def _ranked(self) -> int:
        """Return how many of the frame's tokens are among the best of its clip."""
        known = min(self._frames, len(self._scores))
        clip = self._scores[-known:].ravel()
        best = np.argsort(-clip, kind="stable")[: self._total(known)]
        return int((best >= len(clip) - self._size.tokens).sum())

    def _total(self, frames: int) -> int:
        """Return the tokens that EVS keeps of a video of so many frames: at least one frame of them."""
        return max(self._size.tokens, kept_tokens(frames * self._size.tokens, self._keep))
