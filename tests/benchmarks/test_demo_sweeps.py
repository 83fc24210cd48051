"""The sweeps of the demo world: what they ask for exists, and answers keep the order of clips and questions."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stc_engines import find_target
from stc_export.pipeline.precisions import read_precisions
from stc_export.pruners import ATTENTION_PRUNERS, PRUNERS
from stc_export.reference.methods import REFERENCE_METHODS
from stc_export.validate.rows import SettingClip
from stc_export.validate.sweep import make_settings, parse_axis
from stc_export.validate.types import Answered, ClipOutcome, StageTimes, Work
from tests.stc_export.cli.results import VALIDATED

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def sweeps() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("demo_sweeps")
        patch.delitem(sys.modules, "demo_sweeps")


def test_sweeps_are_settings_of_methods_that_exist(sweeps: Any) -> None:
    for sweep in sweeps.SWEEPS.values():
        settings = make_settings(sweep.base, [parse_axis(text) for text in sweep.axes])
        assert {one.policy.pruner.method for one in settings} <= {
            *(method.name for method in (*PRUNERS, *ATTENTION_PRUNERS)),
            *(REFERENCE_METHODS if sweep.reference else ()),
        }
        for name in sweep.beside:
            assert read_precisions(sweeps.FEW_BITS[name].precision, find_target("cpu")).text != "fp32"
    counts = {name: len(make_settings(s.base, [parse_axis(a) for a in s.axes])) for name, s in sweeps.SWEEPS.items()}
    assert counts == {
        "methods": 29,
        "visionzip": 5,
        "cacher": 7,
        "selections": 7,
        "metrics": 9,
        "budgets": 5,
        "dtd": 5,
        "original": 13,
        "tome": 3,
        "carry": 9,
        "precisions": 2,
        "kv": 2,
        "embed": 2,
        "positions": 5,
    }


def a_clip(setting: str, name: str, letters: str) -> SettingClip:
    answers = tuple(
        Answered(name, place, "kind", "group", "A", letter.strip(), letter == "A")
        for place, letter in enumerate(letters)
    )
    return SettingClip(setting, ClipOutcome(name, answers, Work(1, 1, 0, 25, 25, 9, 3), StageTimes(*[()] * 8)))


def test_answers_are_a_letter_each_in_the_order_of_the_clips(sweeps: Any) -> None:
    clips = [a_clip("off", "test/1", "B "), a_clip("x", "test/0", "D"), a_clip("off", "test/0", "AC")]
    assert sweeps._answers(clips, "off") == "ACB-"


def test_table_has_a_row_for_each_setting(sweeps: Any) -> None:
    lines = sweeps.table("some", VALIDATED).splitlines()
    assert lines[0] == "some: 16 questions about 2 clips"
    right, points = "50.0 % (25.0 to 75.0)", "-25.0 (-50.0 to -12.5)"
    assert lines[-1] == f"| pruner.keep=0.3 | {right} | {points} | 100% | 28% |"
