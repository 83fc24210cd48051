"""The temporal stage of DyCoke (arXiv 2411.15024): of each four frames the first is whole, the others are what is new.

Within a window of frames 0 to 3, frame 1 is compared with 0, 3 with 2, and 2 with 0. The first frame of the next window
is whole again. So what later frames are compared with is the last frame of even number.
"""

from __future__ import annotations

from stc_runtime.budgets.base import Allotment, FrameSize, Look, Remainder

#: Frames of a window.
WINDOW = 4


class CycleBudget:
    """M tokens of the first of each four frames, and of the others what is left of ``keep`` of all: (4 keep - 1) / 3.

    DyCoke's own parameter is the share K that is dropped of the three: keep = 1 - 3/4 K. Its code rounds down in each
    frame; here the remainder goes on to the next, so that the total is exact.
    """

    nbytes = 0

    def __init__(self, size: FrameSize, keep: float) -> None:
        """Share out ``keep`` of all tokens, at least a quarter."""
        self._size = size
        self._share = (WINDOW * keep - 1) / (WINDOW - 1) * size.tokens
        self._remainder = Remainder(size.tokens)
        self._frames = 0

    def allot(self, look: Look) -> Allotment:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`; the frame is not looked at."""
        del look
        place = self._frames % WINDOW
        self._frames += 1
        count = self._remainder.count(self._share) if place else self._size.tokens
        return Allotment(count, remembered=place % 2 == 0)

    def reset(self) -> None:
        """See :class:`~stc_runtime.budgets.base.FrameBudget`."""
        self._remainder.reset()
        self._frames = 0
