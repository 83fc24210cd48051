"""Videos and pictures on disk as footage."""

from __future__ import annotations

from pathlib import Path

import pytest

from stc_export.spec.errors import VideoError
from stc_export.validate.footage import PictureFolder, VideoFile
from tests.stc_export.validate.benchmarks.data import write_pictures
from tests.videos import write_moving_square


def test_a_video_file_gives_the_frames_of_its_part(tmp_path: Path) -> None:
    path = write_moving_square(tmp_path / "a.mp4", frames=40, fps=8)
    assert [seconds for _, seconds in VideoFile(path, 2.0).frames()] == [n / 2 for n in range(10)]
    assert [seconds for _, seconds in VideoFile(path, 2.0, 1.0, 2.5).frames()] == [0.0, 0.5, 1.0]


def test_a_video_that_is_cut_off_is_an_error_after_its_frames(tmp_path: Path) -> None:
    path = write_moving_square(tmp_path / "a.avi", frames=80, fps=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    frames = VideoFile(path, 1.0).frames()
    assert next(frames)[1] == 0.0
    with pytest.raises(VideoError, match=r"lacks its last \d\.\d s"):
        list(frames)


@pytest.mark.parametrize("name", ["missing.mp4", "n" * 300 + ".mp4", "a\0b.mp4"])
def test_a_video_that_cannot_be_there_is_a_video_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(VideoError):
        list(VideoFile(tmp_path / name, 1.0).frames())


def test_pictures_are_taken_at_their_rate(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 9)
    times = {
        fps: [round(seconds, 3) for _, seconds in PictureFolder(tmp_path / "pictures", 3.0, fps).frames()]
        for fps in (1.0, 2.0, 100.0)
    }
    assert times[1.0] == [0.0, 1.0, 2.0]
    assert times[2.0] == [0.0, 0.333, 1.0, 1.333, 2.0, 2.333]
    assert times[100.0] == [round(n / 3, 3) for n in range(9)]


def test_a_part_without_pictures_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 3)
    for folder in (
        PictureFolder(tmp_path / "pictures", 3.0, 1.0, start_s=5.0),
        PictureFolder(tmp_path / "no", 3.0, 1.0),
    ):
        with pytest.raises(VideoError, match="pictures, expected some from"):
            list(folder.frames())
