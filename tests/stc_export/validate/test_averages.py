"""What benchmarks report, against figures worked out by hand."""

from __future__ import annotations

import pytest

from stc_export.validate.averages import Share, official_score
from stc_export.validate.types import Answered


def answers(pattern: str, template: str, group: str) -> list[Answered]:
    """One answer per letter; R is right."""
    return [
        Answered("clip", n, template, group, "A", "A" if one == "R" else "B", one == "R")
        for n, one in enumerate(pattern)
    ]


ALL = [
    *answers("RRRW", "EPM", "backward"),
    *answers("WW", "HLD", "backward"),
    *answers("RRRRRRRRRR", "OCR", "realtime"),
    *answers("RW", "REC", "forward"),
]


def test_the_share_of_questions_is_no_figure_of_its_own() -> None:
    assert official_score("questions", ALL) is None


def test_mean_of_tasks_counts_each_task_once() -> None:
    found = official_score("tasks", ALL)
    assert found is not None
    assert found.value == pytest.approx((0.75 + 0 + 1 + 0.5) / 4)
    assert found.parts == (Share("EPM", 0.75, 4), Share("HLD", 0, 2), Share("OCR", 1, 10), Share("REC", 0.5, 2))


def test_mean_of_groups_counts_each_group_once() -> None:
    found = official_score("groups", ALL)
    assert found is not None
    assert found.value == pytest.approx((0.375 + 1 + 0.5) / 3)
    assert [(part.name, part.value) for part in found.parts] == [
        ("backward", 0.375),
        ("EPM", 0.75),
        ("HLD", 0),
        ("realtime", 1),
        ("OCR", 1),
        ("forward", 0.5),
        ("REC", 0.5),
    ]


def test_a_group_without_questions_is_left_out() -> None:
    found = official_score("groups", answers("RW", "OCR", "realtime"))
    assert found is not None
    assert found.value == 0.5
