"""``run --picture`` on a real bundle."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stc_export.cli.main import main
from stc_export.pipeline.picture import RECOMPUTED
from tests.videos import write_moving_square

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving_square(tmp_path_factory.mktemp("clip") / "square.mp4")


def run(bundle: Path, clip: Path, picture: Path, *more: str) -> int:
    return main(
        ["run", str(bundle), str(clip), "--ask", "What?", "--max-tokens", "1", "--picture", str(picture), *more]
    )


def test_run_writes_a_picture_of_six_frames_and_the_same_json(
    tiny_bundle: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokens.png"
    assert run(tiny_bundle, clip, out, "--fps", "8", "--json") == 0
    captured = capsys.readouterr()
    assert f"picture: {out}" in captured.err
    document = json.loads(captured.out)
    assert document["frames"]["full"] > 0 < document["frames"]["selective"]
    assert not [key for key in captured.out.split('"') if "indices" in key or "picture" in key]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.png"]
    with Image.open(out) as image:
        assert image.format == "PNG"
        pixels = np.array(image)
    # The clip is 96 x 64, so tiles are 288 x 192. A full frame has an orange line as long as its tile; 24 frames of
    # which at least one in eight is full leave one or more among the six.
    orange = (pixels == RECOMPUTED).all(axis=2)
    assert pixels.shape[1] == 3 * 288 + 2 * 24 + 2 * 24
    assert (orange.sum(axis=1) >= 288).any()
    assert orange.sum() > 2 * 2 * (288 + 192)


@pytest.mark.parametrize("name", ["tokens.jpg", "no/tokens.png", ""])
def test_run_with_a_path_that_cannot_be_written_stops_before_the_video(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(tiny_bundle, tmp_path / "missing.mp4", tmp_path / name) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    problem, fix = (line for line in captured.err.splitlines() if line.startswith(("error: ", "fix: ")))
    assert "--picture" in problem
    assert fix
    assert list(tmp_path.iterdir()) == []


def test_run_without_pillow_says_so_before_the_video(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else find(name, *rest))
    assert run(tiny_bundle, tmp_path / "missing.mp4", tmp_path / "tokens.png") == 3
    assert "error: --picture needs the Python package Pillow." in capsys.readouterr().err


def test_run_whose_video_is_missing_writes_no_picture(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.png").write_bytes(b"old")
    assert run(tiny_bundle, tmp_path / "missing.mp4", tmp_path / "tokens.png") == 2
    assert (tmp_path / "tokens.png").read_bytes() == b"old"
