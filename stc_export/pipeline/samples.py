"""A few frames of a stream of unknown length, spread evenly, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.report import CacherMode, FrameReport

#: Modes of which at least one frame is shown when there is one.
_SHOWN: tuple[CacherMode, ...] = ("full", "selective")
#: Longest side of a frame that is kept, in pixels: larger ones are reduced, since a picture shows them small anyway.
MOST_PIXELS = 384


@dataclass(frozen=True, eq=False)
class FrameSample:
    """A frame and what the session did with it.

    Attributes:
        frame: uint8 [H, W, 3], RGB, any size.
        report: What :meth:`stc_runtime.StreamSession.push` returned for it.
    """

    frame: NDArray[np.uint8]
    report: FrameReport


class SampleKeeper:
    """Sees every frame of a stream and keeps every n-th, where n doubles whenever too many have been kept.

    Args:
        most: Frames that are kept at most, beside the first one of each mode; at least 2.
    """

    def __init__(self, most: int = 48) -> None:
        self._most = most
        self._stride = 1
        self._seen = 0
        self._kept: dict[int, FrameSample] = {}
        self._first: dict[CacherMode, int] = {}

    def see(self, frame: NDArray[np.uint8], report: FrameReport) -> None:
        """Take the next frame, uint8 [H, W, 3], which is copied when it is kept."""
        number, self._seen = self._seen, self._seen + 1
        if report.mode not in self._first:
            self._first[report.mode] = number
        elif number % self._stride:
            return
        self._kept[number] = FrameSample(_reduced(frame), report)
        if len(self._kept) > self._most + len(self._first):
            self._stride *= 2
            firsts = set(self._first.values())
            self._kept = {n: s for n, s in self._kept.items() if n % self._stride == 0 or n in firsts}

    def choose(self, count: int) -> tuple[FrameSample, ...]:
        """Return up to ``count`` frames in order of time, with a full and a selective one if the stream had any.

        Args:
            count: At least 2.
        """
        numbers = list(self._kept)
        places = spread(numbers, [sample.report.mode for sample in self._kept.values()], count)
        return tuple(self._kept[numbers[place]] for place in places)


def spread(numbers: Sequence[int], modes: Sequence[CacherMode], count: int) -> list[int]:
    """Return ascending places of up to ``count`` frames whose numbers are as evenly spread as those given allow.

    Where these have no full or no selective frame although there is one, the nearest one of the mode replaces a frame.

    Args:
        numbers: Number of each frame in the stream, ascending.
        modes: Mode of each.
        count: How many to choose; at least 2.
    """
    if len(numbers) <= count:
        return list(range(len(numbers)))
    targets = np.linspace(numbers[0], numbers[-1], count)
    chosen = sorted({min(range(len(numbers)), key=lambda p: abs(numbers[p] - t)) for t in targets})
    for mode in _SHOWN:
        having = [place for place in range(len(modes)) if modes[place] == mode]
        if having and not set(having) & set(chosen):
            free = [p for p in chosen if not _only_one(modes, chosen, p)]
            old, new = min(
                ((old, new) for old in free for new in having), key=lambda p: abs(numbers[p[0]] - numbers[p[1]])
            )
            chosen = sorted({*chosen, new} - {old})
    return chosen


def _only_one(modes: Sequence[CacherMode], chosen: Sequence[int], place: int) -> bool:
    return modes[place] in _SHOWN and [modes[p] for p in chosen].count(modes[place]) == 1


def _reduced(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = frame.shape[:2]
    factor = MOST_PIXELS / max(height, width)
    if factor >= 1.0:
        return frame.copy()
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
