"""What a bundle can be validated on, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from stc_export.spec.errors import UnsupportedError, UsageError, nearest
from stc_export.validate.demo import quiz_clip
from stc_export.validate.fidelity import FPS, QUESTIONS, read_films, watch_beside_off
from stc_export.validate.types import ClipOutcome, TaskClip, TaskClips, TaskOptions
from stc_export.validate.watch import watch_clip
from stc_export.world.splits import draw_test_set
from stc_runtime.session import StreamSession


@dataclass(frozen=True)
class Task:
    """Clips with questions.

    Attributes:
        name: What ``--task`` takes.
        read: Returns the clips.
        watch: Streams one of its clips through a session. It travels to the processes that watch, by its name.
        fps: Frames to take per second of its videos if nothing else is asked for; ``None``: it reads no files.
        questions: What it asks if nothing else is asked for; empty: its questions are its own.
    """

    name: str
    read: Callable[[TaskOptions], TaskClips]
    watch: Callable[[StreamSession, TaskClip], ClipOutcome]
    fps: float | None = None
    questions: tuple[str, ...] = ()


def _read_demo(options: TaskOptions) -> TaskClips:
    return TaskClips(tuple(quiz_clip(quiz) for quiz in islice(draw_test_set(), options.limit)))


#: The tasks. ``demo`` is the frozen test set of the generated world, ``fidelity`` takes a user's own videos.
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("demo", _read_demo, watch_clip),
        Task("fidelity", read_films, watch_beside_off, FPS, QUESTIONS),
    )
}


def read_task(task: Task, options: TaskOptions) -> TaskClips:
    """Return the clips of a task.

    Args:
        task: The task.
        options: What was asked for; what is missing is the task's own.

    Raises:
        UsageError: Files or questions were named for a task that takes none, or files are missing.
        VideoError: A video cannot be read.
    """
    if task.fps is None and (options.data is not None or options.fps is not None):
        raise UsageError(f'Task "{task.name}" reads no files, but --data or --fps was given.', "Leave them out.")
    if task.fps is not None and options.data is None:
        raise UsageError(
            f'Task "{task.name}" reads videos, but --data is missing.', "Name a video or a folder with --data."
        )
    if options.ask and not task.questions:
        raise UsageError(f'Task "{task.name}" has its own questions, but --ask was given.', "Leave it out.")
    return task.read(replace(options, fps=options.fps or task.fps, ask=options.ask or task.questions))


def find_task(name: str) -> Task:
    """Return a task.

    Raises:
        UnsupportedError: There is none of this name.
    """
    if name not in TASKS:
        raise UnsupportedError(f'There is no task "{name}".', nearest(name, TASKS))
    return TASKS[name]
