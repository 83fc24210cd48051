"""Videos for tuning: what they show, and that every question has its right answer among its options."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stc_export.world.questions import TEMPLATES
from stc_export.world.render import Renderer
from stc_export.world.state import tell


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        yield importlib.import_module("tuning_videos")
        patch.delitem(sys.modules, "tuning_videos", raising=False)


def shown(path: Path) -> list[Any]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_both_folders_show_the_same_scenes(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(tmp_path / "out"), "--videos", "2", "--seconds", "8"]) == 0
    assert "calibrate BUNDLE" in capsys.readouterr().out
    for clip in islice(script.scenes(8), 2):
        name = clip.name.replace("/", "-") + ".mkv"
        still, pan = (shown(tmp_path / "out" / folder / name) for folder in ("still", "pan"))
        scene = list(Renderer(clip).frames())
        assert len(scene) == len(still) == len(pan)
        for number, (one, seen, moved) in enumerate(zip(scene, still, pan, strict=True)):
            np.testing.assert_array_equal(seen, one)
            turn = 2 * np.pi * number / (6 * clip.fps)
            right, down = round(16 * np.sin(turn)), round(8 * (1 - np.cos(turn)))
            middle = moved[16 + down : 176 + down, 16 + right : 176 + right]
            np.testing.assert_array_equal(middle, one[16:176, 16:176])


def test_the_right_answer_is_always_offered(script: Any) -> None:
    templates = {template.text: template for template in TEMPLATES}
    asked = dict((*script.QUESTIONS, *script.OBJECTS))
    for clip in islice(script.scenes(60), 3):
        for state in tell(clip):
            for text, offered in asked.items():
                template = templates.get(text) or templates["Which object is {} now?"]
                subject = 0 if text in templates else template.subjects.index("red")
                assert template.answer(state, subject) in (*offered, None)
