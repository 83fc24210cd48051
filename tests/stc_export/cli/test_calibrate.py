from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stc_export.cli.calibrate.tune import result_text
from stc_export.cli.main import main
from stc_export.cli.options import read_bundle_policy
from stc_export.pipeline.calibrate.types import TuneRequest
from stc_export.spec.errors import PolicyError
from stc_export.spec.policy import named_policies
from tests.stc_export.cli.results import TUNED

if TYPE_CHECKING:
    from tests.stc_export.cli.results import FakePipeline

COMMAND = ["calibrate", "demo.stc", "--data", "films", "--budget", "accuracy=0.99"]


def test_calibrate_flags_become_the_request(pipeline: FakePipeline) -> None:
    flags = ["--task", "fidelity", "--minutes", "2.5", "--fps", "2", "--limit", "3", "--threads", "1"]
    assert main([*COMMAND, *flags, "--ask", "Who?", "--ask", "Why?", "--out", "tuned.json"]) == 0
    expected = TuneRequest(
        Path("demo.stc"),
        "accuracy=0.99",
        data=Path("films"),
        task="fidelity",
        minutes=2.5,
        fps=2.0,
        ask=("Who?", "Why?"),
        limit=3,
        threads=1,
        out=Path("tuned.json"),
    )
    assert pipeline.requests == [expected]


def test_calibrate_leaves_open_what_was_not_asked(pipeline: FakePipeline) -> None:
    assert main(COMMAND) == 0
    assert pipeline.requests == [TuneRequest(Path("demo.stc"), "accuracy=0.99", data=Path("films"))]


def test_calibrate_prints_one_json_document(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["record"]
    assert (record["schema"], record["chosen"], record["met"]) == ("stc.tuning/1", "b", True)


def test_calibrate_exits_1_when_the_budget_is_not_met(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    record = replace(TUNED.record, met=False, verdict="accuracy=0.99 is met by nothing that was tried")
    pipeline.tuned = replace(TUNED, record=record)
    assert main(COMMAND) == 1
    said = capsys.readouterr().out
    assert "accuracy=0.99 is met by nothing that was tried." in said
    assert "best: b" in said
    assert "No policy was written." in said


def test_calibrate_needs_something_to_do(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "demo.stc", "--data", "films"]) == 2
    assert "no flag that says what to do, expected one of --budget" in capsys.readouterr().err
    assert pipeline.requests == []


@pytest.mark.parametrize(
    "flags", [["--minutes", "0"], ["--minutes", "nan"], ["--fps", "-1"], ["--limit", "0"], ["--threads", "0"]]
)
def test_calibrate_values_that_are_none_exit_2(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert main([*COMMAND, *flags]) == 2
    assert flags[0] in capsys.readouterr().err
    assert pipeline.requests == []


def test_the_text_has_the_front_the_held_out_figures_and_the_file() -> None:
    said = result_text(TUNED)
    lines = said.splitlines()
    assert "screening: 4 candidates" in said
    assert [line.split()[0] for line in lines if line.endswith(("yes", "no"))] == ["off", "paper", "b", "c"]
    assert "held out: 108 questions about 9 clips that the search did not see" in said
    assert "100.0 % (96.6 to 100.0)" in said
    assert "policy: demo.stc/calib/policy.json" in said
    assert "random" not in said
    assert "answers mean nothing" in result_text(replace(TUNED, trained=False))


def test_policy_tuned_is_that_of_the_bundle(tmp_path: Path) -> None:
    assert read_bundle_policy("paper", tmp_path) == named_policies()["paper"]
    assert read_bundle_policy(None, tmp_path) is None
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib/tuning.json").write_text("{}")
    with pytest.raises(PolicyError, match="lacks the key"):
        read_bundle_policy("tuned", tmp_path)
    with pytest.raises(PolicyError, match="neither a named policy nor a readable file"):
        read_bundle_policy("tuned", None)
