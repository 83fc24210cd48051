"""EgoSchema: one question with five options about each video of three minutes.

The answers of 500 of the 5,031 questions are published; those are asked. The others can only be scored by the
benchmark's own server, which nothing here talks to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stc_export.validate.benchmarks.annotations import Annotated, bad_file, find_file, read_entries, read_table
from stc_export.validate.benchmarks.videos import find_video
from stc_export.validate.footage import VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion

_SOURCE = "the repository egoschema/EgoSchema"
_QUESTIONS = 500
_OPTIONS: Mapping[str, str] = {f"option {place}": f"option_{place}" for place in range(5)}


@dataclass(frozen=True)
class _Entry:
    q_uid: str
    question: str
    option_0: str
    option_1: str
    option_2: str
    option_3: str
    option_4: str


def read(data: Path, fps: float) -> Annotated:
    """Read the questions whose answers are published.

    Args:
        data: Folder with ``questions.json``, ``subset_answers.json`` and ``videos/``.
        fps: Frames to take per second.

    Raises:
        UsageError: A file is missing or not as documented.
    """
    path = find_file(data, ("questions.json",), _SOURCE)
    answers = find_file(data, ("subset_answers.json",), _SOURCE)
    right = _answers(answers)
    entries = [entry for entry in read_entries(path, _Entry, _OPTIONS) if entry.q_uid in right]
    if not entries:
        raise bad_file(path, f"it has no question that {answers.name} answers")
    return Annotated(
        tuple(_clip(data, entry, right[entry.q_uid], fps) for entry in entries), (path, answers), _QUESTIONS
    )


def _answers(path: Path) -> Mapping[str, str]:
    found = dict[str, str]()
    for name, place in read_table(path).items():
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(_OPTIONS):
            raise bad_file(path, f'"{name[:80]}" is answered by something else than 0 to 4')
        found[name] = "ABCDE"[place]
    return found


def _clip(data: Path, entry: _Entry, right: str, fps: float) -> TaskClip:
    options = (entry.option_0, entry.option_1, entry.option_2, entry.option_3, entry.option_4)
    lines = [entry.question, *(f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=True))]
    prompt = "\n".join([*lines, "Answer with the option's letter from the given choices directly."])
    video = find_video(data, (f"videos/{entry.q_uid}.mp4", f"{entry.q_uid}.mp4", f"videos/{entry.q_uid}.MP4"))
    question = TaskQuestion("egoschema", "subset", float("inf"), prompt, right, "letter", max_tokens=16)
    return TaskClip(entry.q_uid, VideoFile(video, fps), (question,))
