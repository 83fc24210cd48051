"""Video-MME without subtitles: three questions about each of 900 videos, asked at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stc_export.validate.benchmarks.annotations import Annotated, bad_entry, find_file, read_entries
from stc_export.validate.benchmarks.videos import find_video
from stc_export.validate.footage import VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion

_SOURCE = (
    "the dataset lmms-lab/Video-MME: write its table videomme/test-00000-of-00001.parquet as JSON with "
    'pandas.read_parquet(FILE).to_json("videomme.json", orient="records")'
)
_QUESTIONS = 2700
_LENGTHS = ("short", "medium", "long")
_PROMPT = """Select the best answer to the following multiple-choice question based on the video. Respond with only \
the letter (A, B, C, or D) of the correct option.
{}
{}
The best answer is:"""


@dataclass(frozen=True)
class _Entry:
    videoID: str  # noqa: N815 - the name in the file
    duration: str
    task_type: str
    question: str
    options: tuple[str, ...]
    answer: str


def read(data: Path, fps: float) -> Annotated:
    """Read the benchmark.

    Args:
        data: Folder with ``videomme.json`` and ``data/``, the videos as their archives unpack.
        fps: Frames to take per second.

    Raises:
        UsageError: The file is missing or not as documented.
    """
    path = find_file(data, ("videomme.json",), _SOURCE)
    entries = read_entries(path, _Entry)
    asked = {entry.videoID: list[TaskQuestion]() for entry in entries}
    for number, entry in enumerate(entries, 1):
        asked[entry.videoID].append(_question(path, number, entry))
    clips = (TaskClip(name, VideoFile(_video(data, name), fps), tuple(own)) for name, own in asked.items())
    return Annotated(tuple(clips), (path,), _QUESTIONS)


def _question(path: Path, number: int, entry: _Entry) -> TaskQuestion:
    if entry.duration not in _LENGTHS:
        raise bad_entry(path, number, f'duration is "{entry.duration[:40]}", expected {", ".join(_LENGTHS)}')
    if entry.answer not in ("A", "B", "C", "D") or len(entry.options) != 4:
        raise bad_entry(
            path, number, f'answer "{entry.answer[:40]}" of {len(entry.options)} options, expected A to D of 4'
        )
    prompt = _PROMPT.format(entry.question, "\n".join(entry.options))
    return TaskQuestion(entry.task_type, entry.duration, float("inf"), prompt, entry.answer, "videomme", max_tokens=16)


def _video(data: Path, name: str) -> Path:
    return find_video(data, [f"{folder}{name}{end}" for folder in ("data/", "") for end in (".mp4", ".MP4", ".mkv")])
