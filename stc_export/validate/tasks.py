"""What a bundle can be validated on, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

from stc_export.spec.errors import UnsupportedError, nearest
from stc_export.validate.demo import quiz_clip
from stc_export.validate.session import Session
from stc_export.validate.types import ClipOutcome, TaskClip
from stc_export.validate.watch import watch_clip
from stc_export.world.splits import draw_test_set


@dataclass(frozen=True)
class Task:
    """Clips with questions.

    Attributes:
        name: What ``--task`` takes.
        read: Returns the first clips, or all of them for ``None``.
        watch: Streams one of its clips through a session. It travels to the processes that watch, by its name.
    """

    name: str
    read: Callable[[int | None], tuple[TaskClip, ...]]
    watch: Callable[[Session, TaskClip], ClipOutcome]


def _read_demo(limit: int | None) -> tuple[TaskClip, ...]:
    return tuple(quiz_clip(quiz) for quiz in islice(draw_test_set(), limit))


#: The tasks. ``demo`` is the frozen test set of the generated world.
TASKS: Mapping[str, Task] = {task.name: task for task in (Task("demo", _read_demo, watch_clip),)}


def find_task(name: str) -> Task:
    """Return a task.

    Raises:
        UnsupportedError: There is none of this name.
    """
    if name not in TASKS:
        raise UnsupportedError(f'There is no task "{name}".', nearest(name, TASKS))
    return TASKS[name]
