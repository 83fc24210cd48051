"""OVO-Bench: questions about the past, the present and what is to come, each at its own moment of a video.

The videos are cut by the benchmark's script: ``{id}.mp4`` ends at the question, ``{id}_{number}.mp4`` at each test of a
forward question. Prompts are those of the benchmark's ``constant.py``, typing errors included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stc_export.validate.benchmarks.annotations import Annotated, Text, bad_entry, find_file, read_entries
from stc_export.validate.benchmarks.videos import find_video
from stc_export.validate.footage import VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion

T = TypeVar("T")

_SOURCE = "the repository JoeLeelyf/OVO-Bench"
_GROUPS: Mapping[str, str] = {
    **dict.fromkeys(("EPM", "ASI", "HLD"), "backward"),
    **dict.fromkeys(("OCR", "ACR", "ATR", "STU", "FPD", "OJR"), "realtime"),
    **dict.fromkeys(("REC", "SSR", "CRR"), "forward"),
}
_QUESTIONS: Mapping[str, int] = {
    "EPM": 297,
    "ASI": 148,
    "HLD": 186,
    "OCR": 149,
    "ACR": 109,
    "ATR": 116,
    "STU": 178,
    "FPD": 101,
    "OJR": 184,
    "REC": 698,
    "SSR": 629,
    "CRR": 240,
}
_CHOICE = """
Question: {}
Options:
{}

Respond only with the letter corresponding to your chosen option (e.g., A, B, C).{}
Do not include any additional text or explanation in your response.
"""
_REC = """
You're watching a video in which people may perform a certain type of action repetively.{}
The person performing this kind of action are referred to as 'they' in the following statement.
You're task is to count how many times have different people in the video perform this kind of action in total.
One complete motion counts as one.{}
Now, answer the following question: How many times did they {}?
Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.
Do not include any additional text or explanation in your response.
"""
_SSR = """
You're watching a tutorial video which contain a sequential of steps.{}
The following is one step from the whole procedures:{}
{}
Your task is to determine if the man or woman in the video is currently performing this step.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response.
"""
_CRR = """
You're responsible of answering questions based on the video content.{}
The following question are relevant to the latest frames, i.e. the end of the video.
{}
Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, provide \
enough information for answering the question.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response.
"""
_BLANK = " "  # the benchmark's lines end with blanks that editors take away


@dataclass(frozen=True)
class _Test:
    step: str | None = None
    type: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class _Entry:
    id: int | str
    task: str
    question: str | None = None
    options: tuple[Text, ...] | None = None
    gt: int | None = None
    activity: str | None = None
    test_info: tuple[_Test, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """A prompt with its right answer and the name of its video."""

    video: str
    prompt: str
    right: str


def read(data: Path, fps: float) -> Annotated:
    """Read the benchmark.

    Args:
        data: Folder with ``ovo_bench_new.json`` and ``chunked_videos/``.
        fps: Frames to take per second.

    Raises:
        UsageError: The file is missing or not as documented.
    """
    path = find_file(data, ("ovo_bench_new.json", "data/ovo_bench_new.json"), _SOURCE)
    clips = [
        clip for n, entry in enumerate(read_entries(path, _Entry), 1) for clip in _clips(data, path, n, entry, fps)
    ]
    return Annotated(tuple(clips), (path,), sum(_QUESTIONS.values()), _QUESTIONS)


def _clips(data: Path, path: Path, number: int, entry: _Entry, fps: float) -> Iterator[TaskClip]:
    if entry.task not in _GROUPS:
        raise bad_entry(path, number, f'its task is "{entry.task[:40]}", expected one of {", ".join(_GROUPS)}')
    try:
        asked = list(_ASK[entry.task](entry))
    except ValueError as error:
        raise bad_entry(path, number, f"in a question of {entry.task}, {error}") from error
    for one in asked:
        video = find_video(data, (f"chunked_videos/{one.video}.mp4", f"{one.video}.mp4"))
        question = TaskQuestion(
            entry.task, _GROUPS[entry.task], float("inf"), one.prompt, one.right, "ovo_bench", max_tokens=128
        )
        yield TaskClip(one.video, VideoFile(video, fps), (question,))


def _choice(entry: _Entry) -> Iterator[_Asked]:
    question, options, right = _given(entry.question, "question"), _given(entry.options, "options"), entry.gt
    if right is None or not 0 <= right < min(len(options), 26):
        raise ValueError(f"gt is {right} with {len(options)} options")
    shown = "; ".join(f"{chr(ord('A') + place)}. {option}" for place, option in enumerate(options))
    yield _Asked(str(entry.id), _CHOICE.format(question, f"{shown};", _BLANK), chr(ord("A") + right))


def _rec(entry: _Entry) -> Iterator[_Asked]:
    prompt = _REC.format(_BLANK, _BLANK, _given(entry.activity, "activity"))
    for place, test in enumerate(_tests(entry)):
        count = _given(test.count, f"test_info[{place}].count")
        if count < 0:
            raise ValueError(f"test_info[{place}].count is {count}")
        yield _Asked(f"{entry.id}_{place}", prompt, str(count))


def _ssr(entry: _Entry) -> Iterator[_Asked]:
    for place, test in enumerate(_tests(entry)):
        prompt = _SSR.format(_BLANK, _BLANK, _given(test.step, f"test_info[{place}].step"))
        yield _Asked(f"{entry.id}_{place}", prompt, _yes_no(test, place))


def _crr(entry: _Entry) -> Iterator[_Asked]:
    prompt = _CRR.format(_BLANK, _given(entry.question, "question"))
    for place, test in enumerate(_tests(entry)):
        yield _Asked(f"{entry.id}_{place}", prompt, _yes_no(test, place))


def _tests(entry: _Entry) -> tuple[_Test, ...]:
    if not entry.test_info:
        raise ValueError("test_info is missing or empty")
    return entry.test_info


def _yes_no(test: _Test, place: int) -> str:
    if test.type not in (0, 1):
        raise ValueError(f"test_info[{place}].type is {test.type}, not 0 or 1")
    return ("No", "Yes")[test.type]


def _given(value: T | None, name: str) -> T:
    if value is None:
        raise ValueError(f"{name} is missing")
    return value


_ASK: Mapping[str, Callable[[_Entry], Iterator[_Asked]]] = {
    **dict.fromkeys((task for task, group in _GROUPS.items() if group != "forward"), _choice),
    "REC": _rec,
    "SSR": _ssr,
    "CRR": _crr,
}
