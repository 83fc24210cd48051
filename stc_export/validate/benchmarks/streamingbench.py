"""StreamingBench, real-time visual understanding: five questions per video, each about what is on the screen then.

The official main setting shows the model the 60 s before a question. With the whole history, which the benchmark has as
its second setting, a video is streamed once and asked at each time, as a live stream would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stc_export.validate.benchmarks.annotations import Annotated, Text, bad_entry, find_file, read_entries
from stc_export.validate.benchmarks.videos import ends_of, find_video
from stc_export.validate.footage import VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion

_FILES = ("questions_real.json", "src/data/questions_real.json", "data/questions_real.json")
_SOURCE = "the repository THUNLP-MT/StreamingBench (src/data/)"
_QUESTIONS = 2500
_CONTEXT_S = 60.0
_PROMPT = """You are an advanced video question-answering AI assistant. You have been provided with some frames from \
the video and a multiple-choice question related to the video. Your task is to carefully analyze the video and provide \
the best answer to question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of \
the correct option.

Question: {}

Options:
{}

The best option is:"""


@dataclass(frozen=True)
class _Question:
    task_type: str
    question: str
    time_stamp: str
    answer: str
    options: tuple[Text, ...]


@dataclass(frozen=True)
class _Entry:
    video_path: str
    questions: tuple[_Question, ...]


@dataclass(frozen=True)
class _Video:
    """A video with its questions in the order of the file; their times are in seconds."""

    name: str
    path: Path
    questions: tuple[TaskQuestion, ...]


def read(data: Path, fps: float) -> Annotated:
    """Read the benchmark with the 60 s before each question, which makes each question a clip of its own.

    Args:
        data: Folder with ``questions_real.json`` and the videos.
        fps: Frames to take per second.

    Raises:
        UsageError: The file is missing or not as documented.
    """
    path, videos = _videos(data)
    clips = (_window(video, place, fps) for video in videos for place in range(len(video.questions)))
    return Annotated(tuple(clips), (path,), _QUESTIONS)


def read_history(data: Path, fps: float) -> Annotated:
    """Read the benchmark with everything before each question: one clip per video. See :func:`read`."""
    path, videos = _videos(data)
    return Annotated(tuple(_stream(video, fps) for video in videos), (path,), _QUESTIONS)


def _window(video: _Video, place: int, fps: float) -> TaskClip:
    question = video.questions[place]
    start_s = max(0.0, question.at_s - _CONTEXT_S)
    end_s = max(question.at_s, start_s + 1.0 / fps)  # a question at 0 s is about the first frame
    footage = VideoFile(video.path, fps, start_s, end_s)
    return TaskClip(f"{video.name}/{place}", footage, (replace(question, at_s=float("inf")),))


def _stream(video: _Video, fps: float) -> TaskClip:
    questions = sorted(video.questions, key=lambda question: question.at_s)
    end_s = questions[-1].at_s + 1.0 / fps
    return TaskClip(video.name, VideoFile(video.path, fps, end_s=end_s), tuple(questions))


def _videos(data: Path) -> tuple[Path, tuple[_Video, ...]]:
    path = find_file(data, _FILES, _SOURCE)
    entries = read_entries(path, _Entry)
    names = dict.fromkeys(entry.video_path for entry in entries)
    asked = {name: list[TaskQuestion]() for name in names}
    for number, entry in enumerate(entries, 1):
        asked[entry.video_path] += _questions(path, number, entry)
    return path, tuple(_Video(_stem(name), _find(data, name), tuple(asked[name])) for name in names if asked[name])


def _stem(name: str) -> str:
    return ends_of(name)[0].removesuffix(".mp4")


def _find(data: Path, name: str) -> Path:
    """Videos lie where the file says, or as the archives unpack: ``real/sample_1/video.mp4``."""
    places = [place for end in ends_of(name) for place in (end, f"real/{end}")]
    numbered = re.search(r"(sample_\d+)_real\.mp4$", name)
    if numbered:
        places += [f"real/{numbered[1]}/video.mp4", f"{numbered[1]}/video.mp4"]
    return find_video(data, places)


def _questions(path: Path, number: int, entry: _Entry) -> Iterator[TaskQuestion]:
    for question in entry.questions:
        if question.answer not in ("A", "B", "C", "D") or len(question.options) != 4:
            raise bad_entry(
                path,
                number,
                f'answer "{question.answer[:40]}" of {len(question.options)} options, expected A to D of 4',
            )
        yield TaskQuestion(
            template=question.task_type,
            group="real-time",
            at_s=_seconds(path, number, question.time_stamp),
            prompt=_PROMPT.format(question.question, "\n".join(_lettered(question.options))),
            right=question.answer,
            scorer="first_character",
            max_tokens=128,
        )


def _lettered(options: Sequence[Text]) -> list[str]:
    texts = [str(option) for option in options]
    return (
        texts
        if texts[0].startswith("A.")
        else [f"{letter}. {text}" for letter, text in zip("ABCD", texts, strict=True)]
    )


def _seconds(path: Path, number: int, text: str) -> float:
    found = re.fullmatch(r"(?:(\d{1,2}):)?(\d{1,2}):(\d{1,2})", text)
    if found is None:
        raise bad_entry(path, number, f'time_stamp is "{text[:40]}", expected HH:MM:SS')
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(3600 * hours + 60 * minutes + seconds)
