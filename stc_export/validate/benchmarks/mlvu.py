"""MLVU, development set: the seven tasks with options. Its two generation tasks need a language model as a judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stc_export.validate.benchmarks.annotations import Annotated, Text, find_file, letter_of, read_entries
from stc_export.validate.benchmarks.choices import BEST_OPTION, lettered_question
from stc_export.validate.benchmarks.videos import find_video
from stc_export.validate.footage import VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion

_SOURCE = "the dataset MLVU/MVLU (MLVU/json/)"


@dataclass(frozen=True)
class _Kind:
    """A task: its file and video folder, its group in the paper, its questions."""

    folder: str
    group: str
    questions: int


_KINDS: Mapping[str, _Kind] = {
    "plotQA": _Kind("1_plotQA", "single detail", 539),
    "needle": _Kind("2_needle", "single detail", 355),
    "ego": _Kind("3_ego", "single detail", 352),
    "count": _Kind("4_count", "multi detail", 206),
    "order": _Kind("5_order", "multi detail", 259),
    "anomaly_reco": _Kind("6_anomaly_reco", "holistic", 200),
    "topic_reasoning": _Kind("7_topic_reasoning", "holistic", 263),
}


@dataclass(frozen=True)
class _Entry:
    video: str
    question: str
    candidates: tuple[Text, ...]
    answer: Text


def read(data: Path, fps: float) -> Annotated:
    """Read the seven tasks.

    Args:
        data: Folder with ``json/1_plotQA.json`` to ``json/7_topic_reasoning.json`` and ``video/``.
        fps: Frames to take per second.

    Raises:
        UsageError: A file is missing or not as documented.
    """
    files = {task: _file(data, kind) for task, kind in _KINDS.items()}
    clips = [clip for task, path in files.items() for clip in _clips(data, task, path, fps)]
    counts = {task: kind.questions for task, kind in _KINDS.items()}
    return Annotated(tuple(clips), tuple(files.values()), sum(counts.values()), counts)


def _file(data: Path, kind: _Kind) -> Path:
    return find_file(
        data, (f"json/{kind.folder}.json", f"{kind.folder}.json", f"MLVU/json/{kind.folder}.json"), _SOURCE
    )


def _clips(data: Path, task: str, path: Path, fps: float) -> Iterator[TaskClip]:
    kind = _KINDS[task]
    for number, entry in enumerate(read_entries(path, _Entry), 1):
        choices = [str(choice) for choice in entry.candidates]
        question = TaskQuestion(
            template=task,
            group=kind.group,
            at_s=float("inf"),
            prompt=lettered_question(entry.question, choices) + BEST_OPTION,
            right=letter_of(path, number, choices, str(entry.answer)),
            scorer="in_brackets",
            max_tokens=16,
        )
        places = (f"video/{kind.folder}/{entry.video}", f"MLVU/video/{kind.folder}/{entry.video}", entry.video)
        yield TaskClip(f"{task}/{number}", VideoFile(find_video(data, places), fps), (question,))
