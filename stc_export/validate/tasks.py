"""What a bundle can be validated on, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from stc_export.spec.errors import UnsupportedError, UsageError, nearest
from stc_export.validate.averages import Rule
from stc_export.validate.benchmarks import egoschema, mlvu, mvbench, ovo_bench, rekv, streamingbench, videomme
from stc_export.validate.benchmarks.reading import Reader, read_benchmark
from stc_export.validate.demo import quiz_clip
from stc_export.validate.engines import OpenSession
from stc_export.validate.fidelity import FPS, QUESTIONS, read_films, watch_beside_off
from stc_export.validate.session import Session
from stc_export.validate.types import ClipOutcome, Engine, Setting, TaskClip, TaskClips, TaskOptions
from stc_export.validate.watch import watch_clip
from stc_export.world.splits import draw_test_set


@dataclass(frozen=True)
class Task:
    """Clips with questions.

    Attributes:
        name: What ``--task`` takes.
        read: Returns the clips.
        watch: Streams one of its clips through a session of one of its engines; the last argument starts streams in
            the bundle that others are compared with. It travels to the processes that watch, by its name.
        scorers: Names of the scorers that it can have, its own first.
        fps: Frames to take per second of its videos if nothing else is asked for; ``None``: it reads no files.
        rule: How the benchmark sums up.
        questions: What it asks if nothing else is asked for; empty: its questions are its own.
        engines: What its settings can run in.
    """

    name: str
    read: Callable[[TaskOptions], TaskClips]
    watch: Callable[[Any, TaskClip, OpenSession], ClipOutcome]
    scorers: tuple[str, ...] = ("first_character",)
    fps: float | None = None
    rule: Rule = "questions"
    questions: tuple[str, ...] = ()
    engines: tuple[Engine, ...] = ("bundle", "torch")


def _read_demo(options: TaskOptions) -> TaskClips:
    return TaskClips(tuple(quiz_clip(quiz) for quiz in islice(draw_test_set(), options.limit)))


def _watch_alone(session: Session, clip: TaskClip, _first: OpenSession) -> ClipOutcome:
    return watch_clip(session, clip)


def _benchmark(name: str, reader: Reader, fps: float, scorers: tuple[str, ...], rule: Rule = "questions") -> Task:
    return Task(name, partial(read_benchmark, reader), _watch_alone, scorers, fps, rule)


_STREAMINGBENCH = ("first_character", "whole", "letter")
_OPTIONS = ("in_brackets", "in_brackets_or_first", "letter", "first_character")
#: The tasks. ``demo`` is the frozen test set of the generated world, ``fidelity`` takes a user's own videos, the others
#: read files of public benchmarks.
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("demo", _read_demo, _watch_alone),
        Task("fidelity", read_films, watch_beside_off, ("same_text",), FPS, questions=QUESTIONS, engines=("bundle",)),
        _benchmark("ovo_bench", ovo_bench.read, 1.0, ("ovo_bench", "prefix", "streamforest"), "groups"),
        _benchmark("streamingbench", streamingbench.read, 1.0, _STREAMINGBENCH),
        _benchmark("streamingbench_history", streamingbench.read_history, 1.0, _STREAMINGBENCH),
        _benchmark("egoschema", egoschema.read, 1.0, ("letter", "letter_or_guess", "first_character")),
        _benchmark("mlvu", mlvu.read, 0.5, _OPTIONS, "tasks"),
        _benchmark("videomme", videomme.read, 0.5, ("videomme", "letter", "first_character")),
        _benchmark("mvbench", mvbench.read, 1.0, ("mvbench", "letter", "first_character"), "tasks"),
        _benchmark("rekv", rekv.read, 0.5, ("in_brackets_or_first", "in_brackets", "letter", "first_character")),
    )
}


def find_task(name: str) -> Task:
    """Return a task.

    Raises:
        UnsupportedError: There is none of this name.
    """
    if name not in TASKS:
        raise UnsupportedError(f'There is no task "{name}".', nearest(name, TASKS))
    return TASKS[name]


def check_engines(task: Task, settings: Sequence[Setting]) -> None:
    """Refuse settings in an engine that the task has no use for.

    Raises:
        UsageError: There is such a setting.
    """
    for setting in settings:
        if setting.engine not in task.engines:
            raise UsageError(
                f'Task "{task.name}" runs in the bundle only, but --reference {setting.engine} was given.',
                "Leave it out, or name another task.",
            )


def find_scorer(task: Task, name: str | None) -> str:
    """Return the name of the scorer to use: the task's own if ``name`` is ``None``.

    Raises:
        UnsupportedError: The task does not have this one.
    """
    if name is not None and name not in task.scorers:
        raise UnsupportedError(f'Task "{task.name}" has no scorer "{name}".', nearest(name, task.scorers))
    return name or task.scorers[0]


def read_task(task: Task, options: TaskOptions) -> TaskClips:
    """Read the clips of a task with the scorer that was asked for.

    Args:
        task: The task.
        options: What was asked for.

    Raises:
        UnsupportedError: The task does not have the scorer.
        UsageError: Files are needed or not, missing or damaged.
    """
    scorer = find_scorer(task, options.scorer)
    _check_files(task, options.data, options.fps)
    if options.ask and not task.questions:
        raise UsageError(f'Task "{task.name}" has its own questions, but --ask was given.', "Leave it out.")
    found = task.read(replace(options, fps=options.fps or task.fps, ask=options.ask or task.questions))
    return replace(found, clips=tuple(_scored(clip, scorer) for clip in found.clips))


def _check_files(task: Task, data: Path | None, fps: float | None) -> None:
    if task.fps is None and (data is not None or fps is not None):
        raise UsageError(f'Task "{task.name}" reads no files, but --data or --fps was given.', "Leave them out.")
    if task.fps is not None and data is None:
        raise UsageError(
            f'Task "{task.name}" reads files, but --data is missing.',
            "Name a folder with them; docs/validate.md says what belongs there. Nothing is downloaded.",
        )


def _scored(clip: TaskClip, scorer: str) -> TaskClip:
    return replace(clip, questions=tuple(replace(question, scorer=scorer) for question in clip.questions))
