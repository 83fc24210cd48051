from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stc_export.cli.main import main
from stc_export.cli.validate import result_text
from stc_export.pipeline.validate.types import Comparison, Conversion, FailedClip, RescoreRequest, ValidateRequest
from stc_export.spec.errors import UsageError
from stc_export.spec.policy import named_policies
from stc_export.validate.averages import Official, Share
from stc_export.validate.folder import OriginalPlan
from stc_export.validate.types import Interval
from tests.stc_export.cli.results import VALIDATED

if TYPE_CHECKING:
    from tests.stc_export.cli.results import FakePipeline

COMMAND = ["validate", "demo.stc", "--task", "demo", "--report", "out"]


def test_validate_flags_become_the_request(pipeline: FakePipeline) -> None:
    flags = ["--policy", "paper", "--sweep", "pruner.keep=1.0,0.5", "--sweep", "cacher.interval=1,2"]
    files = ["--data", "ovo", "--fps", "0.5", "--scorer", "letter"]
    original = ["--reference", "torch", "--model", "there", "--attention", "sdpa"]
    assert main([*COMMAND, *flags, *files, *original, "--limit", "3", "--jobs", "4", "--max-runs", "9"]) == 0
    expected = ValidateRequest(
        Path("demo.stc"),
        "demo",
        Path("out"),
        policy=named_policies()["paper"],
        sweep=("pruner.keep=1.0,0.5", "cacher.interval=1,2"),
        limit=3,
        max_runs=9,
        jobs=4,
        reference="torch",
        model="there",
        attention="sdpa",
        data=Path("ovo"),
        fps=0.5,
        scorer="letter",
    )
    assert pipeline.requests == [expected]


def test_validate_flags_of_videos_become_the_request(pipeline: FakePipeline) -> None:
    flags = ["--data", "films", "--fps", "2.5", "--ask", "Who?", "--ask", "Why?"]
    assert main([*COMMAND, *flags]) == 0
    (request,) = pipeline.requests
    assert (request.data, request.fps, request.ask) == (Path("films"), 2.5, ("Who?", "Why?"))


@pytest.mark.parametrize("fps", ["0", "-1", "nan", "inf"])
def test_validate_rate_that_is_none_exits_2(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], fps: str
) -> None:
    assert main([*COMMAND, "--fps", fps]) == 2
    assert "error: --fps is" in capsys.readouterr().err
    assert pipeline.requests == []


def test_validate_without_flags_has_the_defaults_of_the_request(pipeline: FakePipeline) -> None:
    assert main(COMMAND) == 0
    assert pipeline.requests == [ValidateRequest(Path("demo.stc"), "demo", Path("out"))]


def test_validate_json_is_the_summary_alone(pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "stc.validate/1"
    assert document["settings"][1]["overall"]["against_off"]["mcnemar_p"] == 0.125


def test_validate_text_shows_intervals_cost_and_what_can_be_said() -> None:
    lines = result_text(VALIDATED).splitlines()
    assert lines[0] == "demo on cpu: 16 questions about 2 clips"
    assert lines[3].split()[-1] == "baseline"
    assert lines[3].split()[-2] == "yes"  # on the front
    cells = [cell.strip() for cell in lines[4].split("  ") if cell]
    cost = ["100%", "28%", "12.5"]
    right = ("50.0 % (25.0 to 75.0)", "-25.0 (-50.0 to -12.5)", "0.12")
    assert cells == ["1", "pruner.keep=0.3", *right, *cost, "no", "worse"]


def test_validate_text_lists_failed_clips_notes_and_the_benchmark_s_own_figure() -> None:
    failed = tuple(FailedClip("off", f"clip {n}", "It ends.") for n in range(12))
    official = Official("groups", 0.625, (Share("backward", 0.25, 4), Share("realtime", 1.0, 3)))
    settings = (replace(VALIDATED.settings[0], official=official), VALIDATED.settings[1])
    text = result_text(replace(VALIDATED, settings=settings, failures=failed, notes=("six of ten",)))
    assert "off: 62.5 % as mean of the groups, each the mean of its tasks (backward 25.0, realtime 100.0)" in text
    assert "\n\nsix of ten\n\nnot watched and counted nowhere: 12;" in text
    assert "  clip 9 under off: It ends.\n  and 2 more, in summary.json" in text
    assert "clip 10" not in text


def test_rescore_takes_its_folder_and_the_scorer(pipeline: FakePipeline) -> None:
    assert main(["validate", "--rescore", "out", "--scorer", "letter"]) == 0
    assert pipeline.requests == [RescoreRequest(Path("out"), "letter")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rescore", "out"], "--rescore was given without --scorer"),
        (["demo.stc", "--rescore", "out", "--task", "demo"], "--rescore was given with BUNDLE, --task"),
        (["demo.stc"], "Missing option '--task'."),
        ([*COMMAND[1:], "--fps", "0"], "--fps is 0"),
    ],
)
def test_validate_flags_that_do_not_go_together_exit_2(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["validate", *arguments]) == 2
    assert f"error: {told}" in capsys.readouterr().err
    assert pipeline.requests == []


def test_validate_text_shows_the_bundle_against_the_original_model() -> None:
    conversion = Conversion("off", 0.9375, Comparison(Interval(-0.0625, -0.125, 0.0, 16), 1.0, "no difference"))
    original = OriginalPlan("demo", "ab" * 32, "eager", "2.9", "5.0")
    lines = result_text(replace(VALIDATED, original=original, conversions=(conversion,))).splitlines()
    assert "the bundle against demo in transformers, same policy:" in lines
    cells = [cell.strip() for cell in lines[-1].split("  ") if cell]
    assert cells == ["off", "93.8 %", "-6.2 (-12.5 to +0.0)", "1", "no difference"]


@pytest.mark.parametrize("flag", ["--limit", "--jobs", "--max-runs"])
def test_validate_value_out_of_range_exits_2(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main([*COMMAND, flag, "0"]) == 2
    assert f"error: {flag} is 0" in capsys.readouterr().err
    assert pipeline.requests == []


def test_validate_error_is_told_with_its_fix(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.failure = UsageError("It is wrong.", "Do this.")
    assert main(COMMAND) == 2
    assert capsys.readouterr().err.endswith("error: It is wrong.\nfix: Do this.\n")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--task", "dmeo"], 'There is no task "dmeo".'),
        (["--sweep", "pruner.kepe=1"], 'A policy has no key "pruner.kepe".'),
        (["--sweep", "pruner.keep=2"], "pruner.keep is 2, expected a number above 0 and at most 1."),
        (["--sweep", "pruner.seed=1,2,3", "--max-runs", "3"], "--sweep asks for 4 runs with the baseline"),
        (["--sweep", "pruner.method=other"], 'The bundle has no pruner graph "other"'),
    ],
)
def test_validate_refuses_before_anything_runs(
    tiny_bundle: Path, tmp_path: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["validate", str(tiny_bundle), "--task", "demo", "--report", str(out), "--limit", "1", *flags]) == 2
    assert f"error: {told}" in capsys.readouterr().err
    assert not out.exists()


def test_validate_without_scipy_says_which_extra_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(COMMAND) == 3
    assert 'fix: Run pip install "stc-export[validate]".' in capsys.readouterr().err
