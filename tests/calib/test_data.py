"""Which frames of a folder are looked at, in which order, and what is refused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stc_calib.data import CalibrationData, Clip, digest_data, read_data
from stc_export.spec.errors import StcError, UsageError, VideoError
from tests.videos import write_moving_square

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((6, 8, 3), shade, np.uint8)).save(path)


def shades(data: CalibrationData) -> dict[str, list[int]]:
    return {clip.name: [int(frame[0, 0, 0]) for frame, _ in clip.frames()] for clip in data.clips}


def test_pictures_of_a_folder_are_one_clip_in_the_order_of_their_names(tmp_path: Path) -> None:
    for place, name in enumerate(["b/2.png", "b/1.png", "a.png", "c.png", "b/deep/1.png"]):
        picture(tmp_path / name, 10 * place)
    (tmp_path / "notes.txt").write_text("no picture")
    data = read_data(tmp_path)
    assert shades(data) == {"a.png": [20, 30], "b/1.png": [10, 0], "b/deep/1.png": [40]}
    assert [seconds for _, seconds in data.clips[0].frames()] == [0.0, 1.0]


def test_videos_give_a_frame_a_second_and_share_what_is_taken(tmp_path: Path) -> None:
    for name in ("x.mp4", "y.mp4"):
        write_moving_square(tmp_path / name, frames=160, fps=8)
    frames = [list(clip.frames()) for clip in read_data(tmp_path, 20).clips]
    assert [[seconds for _, seconds in clip] for clip in frames] == [[float(second) for second in range(10)]] * 2
    (alone,) = read_data(tmp_path / "y.mp4", 20).clips
    assert (alone.name, len(list(alone.frames()))) == ("y.mp4", 20)


def test_of_many_clips_some_at_even_distances_are_taken(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / f"{number:02}" / "x.png", number)
    assert shades(read_data(tmp_path, 32)) == {f"{n:02}/x.png": [n] for n in (0, 3, 6, 9)}


def test_digest_is_that_of_sizes_and_pixels(tmp_path: Path) -> None:
    expected = hashlib.sha256()
    for number in range(9):
        picture(tmp_path / f"{number}.png", number)
        expected.update(b"(6, 8, 3)" + bytes([number]) * 144)
    found = digest_data(read_data(tmp_path))
    assert (found.frames, found.sha256) == (9, expected.hexdigest())
    picture(tmp_path / "3.png", 200)
    assert digest_data(read_data(tmp_path)) != found


def test_too_few_frames_are_refused_with_how_many_are_needed(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 0)
    with pytest.raises(UsageError) as caught:
        digest_data(read_data(tmp_path))
    assert caught.value.problem == f'"{tmp_path}" has 1 frames, one a second; at least 8 are needed.'


def _nothing(root: Path) -> Path:
    (root / "notes.txt").write_text("x")
    return root


def _broken(name: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        (root / name).write_bytes(b"not what it says")
        return root

    return write


BAD = [
    (lambda root: root / "none", UsageError, "There is no calibration data"),
    (_nothing, UsageError, "has no videos and no pictures"),
    (lambda root: _nothing(root) / "notes.txt", UsageError, "has no videos and no pictures"),
    (_broken("a.png"), VideoError, "Picture"),
    (_broken("a.mp4"), VideoError, "cannot be read as a video"),
]


@pytest.mark.parametrize(("make", "kind", "text"), BAD)
def test_data_that_cannot_be_used_is_refused(
    make: Callable[[Path], Path], kind: type[StcError], text: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=text):
        digest_data(read_data(make(tmp_path)))


def test_clip_is_read_from_the_start_each_time() -> None:
    clip = Clip("x", lambda: iter([(np.zeros((1, 1, 3), np.uint8), 0.0)] * 8))
    data = CalibrationData("x", (clip,))
    assert digest_data(data) == digest_data(data)
