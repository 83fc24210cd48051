"""A user's own videos cut into clips of a few frames, so that a long recording gives many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stc_export.validate.fidelity import FPS, ask_in_thirds, film_times, films_digest, find_films
from stc_export.validate.footage import VideoFile
from stc_export.validate.recent import Recent
from stc_export.validate.types import Footage, TaskClip, TaskClips, TaskOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def cut_films(options: TaskOptions, frames: int) -> TaskClips:
    """Cut the videos that were named. All of them are decoded once.

    Args:
        options: With data, a rate and questions.
        frames: Frames of a clip. A rest of less than half of them is left out, unless it is all that a video has.

    Raises:
        UsageError: There is no video, or a question is empty.
        VideoError: A video cannot be read, or is too short to be asked about.
    """
    films = find_films(options)
    clips = tuple(clip for film in films for clip in _cut(film, options.ask, frames))
    return TaskClips(clips, (), films_digest(films), options.fps or FPS, options.ask)


def _cut(film: VideoFile, questions: Sequence[str], frames: int) -> tuple[TaskClip, ...]:
    times = film_times(film)
    starts = [first for first in range(0, len(times), frames) if not first or len(times) - first >= frames / 2]
    return tuple(_part(film, questions, times[first : first + frames + 1], frames) for first in starts)


def _part(film: VideoFile, questions: Sequence[str], times: Sequence[float], frames: int) -> TaskClip:
    """Return a clip of the frames with these times but the one that follows them, if there is one."""
    start, end = times[0], times[frames] if len(times) > frames else math.inf
    own = [seconds - start for seconds in times[:frames]]
    footage = replace(film, start_s=start, end_s=end)
    return TaskClip(f"{film.path.name} from {start:g} s", footage, ask_in_thirds(questions, own))


class FrameShelf:
    """Keeps the frames of the clips that were watched last, which are watched again under other settings.

    Args:
        most_bytes: Room for them.
    """

    def __init__(self, most_bytes: int) -> None:
        self._kept: Recent[HeldFrames] = Recent(most_bytes)

    def hold(self, clip: TaskClip) -> TaskClip:
        """Return the same clip with its frames in memory.

        Raises:
            VideoError: They cannot be read.
        """
        held = self._kept.get(clip.name)
        if held is None:
            held = HeldFrames(tuple(clip.footage.frames()))
            self._kept.put(clip.name, held, sum(frame.nbytes for frame, _ in held.shown))
        return replace(clip, footage=held)


@dataclass(frozen=True)
class HeldFrames(Footage):
    """Frames in memory, uint8 [H, W, 3], each with its time in seconds."""

    shown: tuple[tuple[NDArray[np.uint8], float], ...]

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield them."""
        yield from self.shown
