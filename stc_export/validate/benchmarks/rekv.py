"""The JSON that ReKV and the code of STC read: videos with conversations of multiple-choice questions.

Differs from that code in one place: there, a right answer that is not among the choices counts as A without a word.
Here a letter and an index are taken for what they are, and anything else is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stc_export.spec.errors import UsageError
from stc_export.validate.benchmarks.annotations import Annotated, Text, bad_entry, read_entries
from stc_export.validate.benchmarks.choices import BEST_OPTION, lettered_question
from stc_export.validate.benchmarks.videos import ends_of, find_video
from stc_export.validate.footage import VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion


@dataclass(frozen=True)
class _Question:
    question: str
    answer: Text | None = None
    choices: tuple[Text, ...] | None = None
    question_type: str | None = None


@dataclass(frozen=True)
class _Entry:
    video_id: str
    video_path: str
    conversations: tuple[_Question, ...]
    duration: Text | None = None


def read(data: Path, fps: float) -> Annotated:
    """Read the one JSON file of a folder.

    Args:
        data: Folder with the file and the videos; leading folders of ``video_path`` may be missing there.
        fps: Frames to take per second.

    Raises:
        UsageError: There is not one such file, or it is not as documented.
    """
    path = _only_file(data)
    clips = [_clip(data, path, number, entry, fps) for number, entry in enumerate(read_entries(path, _Entry), 1)]
    return Annotated(tuple(clips), (path,))


def _only_file(data: Path) -> Path:
    found = sorted(data.glob("*.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise UsageError(
            f'--data is "{data}", which has {len(found)} JSON files ({names}), expected one in the format of ReKV.',
            "Put one annotation file, for example dev_debug_mc.json of the repository Becomebright/ReKV, there.",
        )
    return found[0]


def _clip(data: Path, path: Path, number: int, entry: _Entry, fps: float) -> TaskClip:
    group = entry.duration if isinstance(entry.duration, str) else "all"  # Video-MME: short, medium or long
    questions = tuple(_questions(path, number, entry.conversations, group))
    if not questions:
        raise bad_entry(path, number, "it has no question")
    footage = VideoFile(find_video(data, ends_of(entry.video_path)), fps)
    # Video-MME's file has an entry per question, all with the same video.
    return TaskClip(f"{entry.video_id}/{number}", footage, questions)


def _questions(path: Path, number: int, asked: Sequence[_Question], group: str) -> Iterator[TaskQuestion]:
    for one in asked:
        if not one.choices or one.answer is None:
            raise bad_entry(path, number, "a question has no choices or no answer; open answers need a judge")
        choices = [str(choice) for choice in one.choices]
        yield TaskQuestion(
            template=one.question_type or "all",
            group=group,
            at_s=float("inf"),
            prompt=lettered_question(one.question, choices) + BEST_OPTION,
            right=_right(path, number, choices, str(one.answer)),
            scorer="in_brackets_or_first",
            max_tokens=16,
        )


def _right(path: Path, number: int, choices: Sequence[str], answer: str) -> str:
    letters = [chr(ord("A") + place) for place in range(min(len(choices), 26))]
    places = [str(place) for place in range(len(letters))]
    for names in (choices, letters, places):  # the text comes first: a count may look like an index
        if answer in names[: len(letters)]:
            return letters[names.index(answer)]
    raise bad_entry(path, number, f'the answer "{answer[:80]}" is none of its {len(choices)} choices')
