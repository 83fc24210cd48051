"""Answers on file judged by another scorer. The folder is written here, so that its answers are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.pipeline.validate.rescore import rescore
from stc_export.pipeline.validate.types import RescoreRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import UnsupportedError, UsageError
from stc_export.spec.policy import Policy, named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.folder import Plan, open_rows
from stc_export.validate.rows import SettingClip
from stc_export.validate.scorers import answered
from stc_export.validate.types import ClipOutcome, Setting, StageTimes, TaskQuestion, Work
from tests.stc_export.cli.results import VALIDATED

SETTINGS = (Setting("off", named_policies()["off"]), Setting("base", Policy()))
PLAN = Plan("stc.validate-plan/1", "ab" * 32, "ovo_bench", 3, "some cpu", SETTINGS, "cd" * 32, 1.0, "ovo_bench")
#: Text, right answer, kind, group. By ``ovo_bench`` all three are right, by ``prefix`` the second is not.
ANSWERS = (("B", "B", "EPM", "backward"), ("A, not B", "B", "OCR", "realtime"), ("12", "12", "REC", "forward"))


def a_clip(number: int, text: str, right: str, template: str, group: str) -> ClipOutcome:
    question = TaskQuestion(template, group, 0.0, "?", right, "ovo_bench", 8)
    answer = answered(str(number), 0, question, text)
    return ClipOutcome(str(number), (answer,), Work(2, 1, 1, 50, 30, 18, 6), StageTimes(*[(1.0, 3.0)] * 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    with open_rows(out, PLAN) as rows:
        for setting in ("off", "base"):
            for number, parts in enumerate(ANSWERS):
                rows.append(SettingClip(setting, a_clip(number, *parts)))
    before = replace(VALIDATED, task="ovo_bench", scorer="ovo_bench", clips=3, questions=3)
    (out / "summary.json").write_text(codec.to_json(before), encoding="utf-8")
    (out / "report.html").write_text("the first report", encoding="utf-8")
    return out


def test_rescore_judges_again_and_leaves_the_first(folder: Path) -> None:
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = rescore(RescoreRequest(folder, "prefix"), Silent())
    assert [one.overall.accuracy.value for one in result.settings] == [pytest.approx(2 / 3)] * 2
    assert result.settings[0].official is not None
    assert result.settings[0].official.value == pytest.approx((1 + 0 + 1) / 3)
    assert (result.scorer, result.task, result.environment) == ("prefix", "ovo_bench", VALIDATED.environment)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    written = {path.name for path in folder.iterdir()} - set(kept)
    assert written == {"summary-prefix.json", "report-prefix.html"}
    assert codec.from_json(ValidateResult, (folder / "summary-prefix.json").read_text(encoding="utf-8")) == result


def test_rescore_with_the_same_scorer_gives_what_is_on_file(folder: Path) -> None:
    result = rescore(RescoreRequest(folder, "ovo_bench"), Silent())
    assert [one.overall.accuracy.value for one in result.settings] == [1.0, 1.0]


def test_rescore_counts_clips_that_all_settings_have(folder: Path) -> None:
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["clip"] == "2"
    (folder / "results.jsonl").write_text("".join(lines[:-2]))
    result = rescore(RescoreRequest(folder, "ovo_bench"), Silent())
    assert (result.clips, result.questions, result.settings[0].overall.accuracy.n) == (2, 2, 2)


def test_rescore_refuses_a_scorer_of_another_task(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match=r'"ovo_bench" has no scorer "mvbench"'):
        rescore(RescoreRequest(folder, "mvbench"), Silent())


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "results.jsonl"])
@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"kind": "clip"}\n', "\x00"])
def test_rescore_names_the_file_that_is_missing_or_damaged(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UsageError, match="cannot be scored again") as caught:
        rescore(RescoreRequest(folder, "prefix"), Silent())
    assert name in caught.value.problem
