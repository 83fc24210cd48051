"""The clips of a search: which of them it looks at, and which are kept for the final figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from stc_calib.tuning.budgets import Budget
from stc_calib.tuning.space import CLIP_FRAMES
from stc_export.pipeline.calibrate.types import TuneRequest
from stc_export.spec.errors import UsageError
from stc_export.validate.cuts import cut_films
from stc_export.validate.footage import VideoFile
from stc_export.validate.tasks import Task, find_task, read_task
from stc_export.validate.types import TaskClip, TaskClips, TaskOptions

#: Tasks whose videos are cut into clips here.
_READERS: Mapping[str, Callable[[TaskOptions], TaskClips]] = {"fidelity": partial(cut_films, frames=CLIP_FRAMES)}


@dataclass(frozen=True)
class TuningClips:
    """What is watched.

    Attributes:
        task: The task.
        search: Clips for the search. The first ones are of as many videos as possible.
        held_out: Clips for the final figures.
        sha256: Digest of the files behind them; "" without any.
        fps: Frames per second that are taken; ``None``: clips are generated.
        asked: Questions that every clip is asked; empty where each has its own.
    """

    task: Task
    search: tuple[TaskClip, ...]
    held_out: tuple[TaskClip, ...]
    sha256: str
    fps: float | None
    asked: tuple[str, ...]


def read_clips(request: TuneRequest) -> TuningClips:
    """Read the clips of a request, and share them out.

    Raises:
        StcError: The task does not exist, or its files are missing or cannot be read.
    """
    task = find_task(request.task)
    task = replace(task, read=_READERS.get(task.name, task.read))
    found = read_task(task, TaskOptions(request.data, request.fps, None, request.limit, request.ask))
    search, held_out = split([tuple(clips) for _, clips in groupby(found.clips, _film)])
    return TuningClips(task, search, held_out, found.annotations, found.fps, found.asked)


def _film(clip: TaskClip) -> str:
    return str(clip.footage.path) if isinstance(clip.footage, VideoFile) else clip.name


def split(films: Sequence[Sequence[TaskClip]]) -> tuple[tuple[TaskClip, ...], tuple[TaskClip, ...]]:
    """Share clips out: of each video the second half is held out; of videos with one clip, every other one.

    Args:
        films: The clips of each video, in order of time.

    Returns:
        Clips to search on, the first of each video before the second ones, and clips that are held out.
    """
    kept: list[Sequence[TaskClip]] = []
    held_out: list[TaskClip] = []
    seen = 0
    for clips in films:
        seen += len(clips)
        due = seen // 2 - len(held_out)
        kept.append(clips[: len(clips) - due])
        held_out += clips[len(clips) - due :]
    most = max((len(clips) for clips in kept), default=0)
    search = [clips[place] for place in range(most) for clips in kept if place < len(clips)]
    return tuple(search), tuple(held_out)


def check_enough(clips: TuningClips, budget: Budget) -> None:
    """Check that there are questions enough to tell whether a budget is met.

    Raises:
        UsageError: There are not.
    """
    search, held_out = (sum(len(clip.questions) for clip in part) for part in (clips.search, clips.held_out))
    least = budget.least_questions
    if min(search, held_out) < least:
        raise UsageError(
            f"The data has {search} questions about {len(clips.search)} clips for the search and {held_out} about "
            f"{len(clips.held_out)} for the final figure, but {budget.name}={budget.value:g} needs {least} in each"
            f"{_in_minutes(clips, least)}.",
            "Give more video, ask more questions with --ask, raise --fps, or ask for less.",
        )


def _in_minutes(clips: TuningClips, least: int) -> str:
    """Say how much video the questions need, where they are the same for all clips."""
    if clips.fps is None or not clips.asked:
        return ""
    each = len((*clips.search, *clips.held_out)[0].questions)
    needed = 2 * -(-least // each)
    minutes = needed * CLIP_FRAMES / clips.fps / 60
    return f": {needed} clips of {CLIP_FRAMES} frames, {minutes:.1f} minutes of video at --fps {clips.fps:g}"
