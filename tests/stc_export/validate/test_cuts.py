"""Videos cut into clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stc_export.validate.cuts import FrameShelf, cut_films
from stc_export.validate.fidelity import find_films
from stc_export.validate.types import TaskClip, TaskOptions
from tests.videos import write_moving_square


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames at 8 per second."""
    return write_moving_square(tmp_path_factory.mktemp("films") / "square.mp4")


def cut(path: Path, frames: int) -> tuple[TaskClip, ...]:
    return cut_films(TaskOptions(data=path, fps=8.0, ask=("Who?", "Why?")), frames).clips


@pytest.mark.parametrize(
    ("frames", "lengths"),
    [
        (24, [24]),
        (30, [24]),
        (12, [12, 12]),
        (10, [10, 10]),
        (8, [8, 8, 8]),
        (7, [7, 7, 7]),
        (6, [6, 6, 6, 6]),
        (16, [16, 8]),
    ],
)
def test_clips_are_the_frames_of_the_video_one_after_the_other(film: Path, frames: int, lengths: list[int]) -> None:
    whole = list(find_films(TaskOptions(data=film, fps=8.0))[0].frames())
    clips = cut(film, frames)
    found = [list(clip.footage.frames()) for clip in clips]
    assert [len(one) for one in found] == lengths
    joined = [frame for one in found for frame, _ in one]
    assert all(np.array_equal(a, b) for a, (b, _) in zip(joined, whole, strict=False))
    assert all(one[0][1] == 0.0 for one in found)


def test_questions_are_asked_in_thirds_of_a_clip(film: Path) -> None:
    for clip in cut(film, 12):
        times = [seconds for _, seconds in clip.footage.frames()]
        assert [question.prompt for question in clip.questions] == ["Who?", "Why?"] * 3
        assert [question.at_s for question in clip.questions[::2]] == pytest.approx([times[3], times[7], times[11]])


def test_names_say_where_a_clip_begins(film: Path) -> None:
    assert [clip.name for clip in cut(film, 12)] == ["square.mp4 from 0 s", "square.mp4 from 1.5 s"]


def test_frames_are_held_and_let_go(film: Path) -> None:
    first, second = cut(film, 12)
    shelf = FrameShelf(1)  # room for the newest only
    held = shelf.hold(first)
    assert shelf.hold(first).footage is held.footage
    assert (held.name, held.questions) == (first.name, first.questions)
    for (a, a_s), (b, b_s) in zip(held.footage.frames(), first.footage.frames(), strict=True):
        assert np.array_equal(a, b)
        assert a_s == b_s
    shelf.hold(second)
    assert shelf.hold(first).footage is not held.footage
