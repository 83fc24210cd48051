"""``run`` on a camera that goes away and comes back: the session goes on, and the result says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stc_export.pipeline.run import run
from stc_export.pipeline.types import Question, RunRequest
from stc_export.spec.progress import Silent
from tests.clips import Clip, write
from tests.runtime.test_camera import hang_up, send, served

if TYPE_CHECKING:
    from pathlib import Path


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_run_on_a_camera_that_comes_back_keeps_the_session_and_reports_the_gap(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "a.ts", Clip("mpeg2video", rate=25)).read_bytes()
    notes = Notes()
    with served(send(data), hang_up, send(data)) as address:
        request = RunRequest(tiny_bundle, address, (Question("What?"),), fps=5.0, max_tokens=4, away_s=1.0)
        result = run(request, notes, lambda *_: None)
    assert result.camera is not None
    assert result.camera.gaps == 1
    # 25 frames a second for a second: five of each connection are taken, or dropped.
    assert result.frames.total + result.camera.dropped == 10
    assert result.answers[0].at_s >= result.camera.away_s > 0.0
    assert [line.partition(" s")[0].rstrip("0123456789.") for line in notes.lines[:2]] == [
        "the camera is away after ",
        "the camera is back at ",
    ]


def test_run_of_a_part_of_a_file_stops_at_its_end_and_has_no_camera(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", Clip(rate=10, frames=25))
    request = RunRequest(tiny_bundle, video, (Question("What?"),), fps=2.0, max_tokens=4, until_s=1.2)
    result = run(request, Silent(), lambda *_: None)
    assert (result.frames.total, result.camera) == (3, None)
