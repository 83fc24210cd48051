"""The folder of a validation: continued by the same plan, refused to any other, and to two at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.spec.errors import UsageError
from stc_export.spec.policy import Policy, named_policies
from stc_export.validate.folder import PLAN, RESULTS, Plan, open_rows
from stc_export.validate.types import Setting
from tests.stc_export.validate.test_rows import a_clip

OFF, BASE = Setting("off", named_policies()["off"]), Setting("base", Policy())
A_PLAN = Plan("stc.validate-plan/1", "ab" * 32, "demo", 2, "some cpu", (OFF, BASE))
CLIPS = [a_clip("off", f"test/{number}", ["A", "B"]) for number in range(3)]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    with open_rows(folder, A_PLAN) as rows:
        assert rows.done == ()
        rows.append(CLIPS[0])
        rows.append(CLIPS[1])
    return folder


def test_the_same_plan_continues(begun: Path) -> None:
    with open_rows(begun, A_PLAN) as rows:
        assert rows.done == (CLIPS[0], CLIPS[1])
        rows.append(CLIPS[2])
    with open_rows(begun, A_PLAN) as rows:
        assert rows.done == tuple(CLIPS)


def test_a_cut_end_is_dropped_and_written_over(begun: Path) -> None:
    path = begun / RESULTS
    path.write_bytes(path.read_bytes()[:-5])
    with open_rows(begun, A_PLAN) as rows:
        assert rows.done == (CLIPS[0],)
        rows.append(CLIPS[2])
    with open_rows(begun, A_PLAN) as rows:
        assert rows.done == (CLIPS[0], CLIPS[2])


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (replace(A_PLAN, bundle="cd" * 32), f"bundle {'ab' * 32} there, {'cd' * 32} here"),
        (replace(A_PLAN, task="other"), "task demo there, other here"),
        (replace(A_PLAN, clips=3), "clips 2 there, 3 here"),
        (replace(A_PLAN, cpu="another"), "cpu some cpu there, another here"),
        (replace(A_PLAN, settings=(OFF,)), "settings off | base there, off here"),
        (replace(A_PLAN, settings=(OFF, Setting("base", OFF.policy))), 'the policy of setting "base" differs'),
    ],
)
def test_another_plan_is_refused_with_the_difference(begun: Path, plan: Plan, told: str) -> None:
    before = (begun / RESULTS).read_bytes()
    with pytest.raises(UsageError) as caught, open_rows(begun, plan):
        pass
    assert told in caught.value.problem
    assert (begun / RESULTS).read_bytes() == before


def test_two_at_a_time_are_refused(begun: Path) -> None:
    with open_rows(begun, A_PLAN), pytest.raises(UsageError, match="Another process"), open_rows(begun, A_PLAN):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "stc.validate-plan/2"}', "\x00", "[" * 100_000])
def test_a_damaged_plan_is_refused(begun: Path, text: str) -> None:
    (begun / PLAN).write_text(text)
    with pytest.raises(UsageError, match=r"cannot be continued: plan\.json"), open_rows(begun, A_PLAN):
        pass


def test_rows_without_a_plan_are_refused(begun: Path) -> None:
    (begun / PLAN).unlink()
    with pytest.raises(UsageError, match="cannot be continued"), open_rows(begun, A_PLAN):
        pass


def test_foreign_rows_are_refused_and_left_alone(begun: Path) -> None:
    (begun / RESULTS).write_text("notes of mine\n")
    with pytest.raises(UsageError, match=r"results\.jsonl, line 1"), open_rows(begun, A_PLAN):
        pass
    assert (begun / RESULTS).read_text() == "notes of mine\n"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="which is a file"), open_rows(tmp_path / "out", A_PLAN):
        pass
    with pytest.raises(UsageError, match="is missing"), open_rows(tmp_path / "no" / "out", A_PLAN):
        pass
