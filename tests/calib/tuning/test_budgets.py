"""Budgets: how they are written, when they are met, and how much data they need."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from stc_calib.tuning.budgets import BUDGETS, Budget, Score, lower_end, parse_budget
from stc_export.spec.errors import UsageError

SHARES = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(SHARES, st.sampled_from([1.0, 1.96, 2.5]))
def test_lower_end_is_that_of_scipy(pair: tuple[int, int], errors: float) -> None:
    kept, questions = pair
    level = 2 * float(norm.cdf(errors)) - 1
    expected = binomtest(kept, questions).proportion_ci(level, method="wilson").low
    assert lower_end(kept, questions, errors) == pytest.approx(float(expected), abs=1e-9)


@given(SHARES.filter(lambda pair: 0 < pair[0] < pair[1]))
def test_lower_end_is_where_the_estimate_is_one_standard_error_away(pair: tuple[int, int]) -> None:
    kept, questions = pair
    share = kept / questions
    # Wilson's interval solves share - p = sqrt(p (1 - p) / n) for p; here by bisection and not by the formula.
    root = brentq(lambda p: share - p - math.sqrt(p * (1 - p) / questions), 1e-12, share)
    assert lower_end(kept, questions, 1.0) == pytest.approx(root, abs=1e-9)


@pytest.mark.parametrize(
    ("share", "least"), [(0.5, 50), (0.9, 50), (0.98, 50), (0.99, 100), (0.995, 200), (0.999, 1000)]
)
def test_least_questions_let_one_answer_be_lost_and_are_enough(share: float, least: int) -> None:
    budget = Budget("accuracy", share)
    assert budget.least_questions == least
    assert (least - 1) / least >= share - 1e-12
    assert budget.met(Score(least, least, 1.0, 1.0))


@pytest.mark.parametrize(("questions", "lost"), [(100, 0), (120, 0), (225, 1), (270, 1), (400, 2), (1000, 7)])
def test_answers_that_a_budget_of_99_percent_can_lose(questions: int, lost: int) -> None:
    # By scipy: the one-sided 75 % Wilson interval is the two-sided one of 50 %.
    ends = [
        float(binomtest(questions - n, questions).proportion_ci(0.5, method="wilson").low) for n in (lost, lost + 1)
    ]
    assert ends[0] >= 0.99 > ends[1]
    budget = Budget("accuracy", 0.99)
    assert budget.met(Score(questions, questions - lost, 1.0, 1.0))
    assert not budget.met(Score(questions, questions - lost - 1, 1.0, 1.0))


@given(SHARES, st.integers(0, 400), st.floats(0.5, 0.999))
def test_what_is_no_longer_possible_is_never_met(pair: tuple[int, int], more: int, share: float) -> None:
    kept, asked = pair
    budget = Budget("accuracy", share)
    if not budget.possible(Score(asked, kept, 1.0, 1.0), asked + more):
        assert not budget.met(Score(asked + more, kept + more, 1.0, 1.0))


def test_budgets_rank_by_what_they_leave_free() -> None:
    cheap, true = Score(100, 97, 0.2, 5.0, 0.3), Score(100, 99, 0.8, 9.0, 0.1)
    accuracy, latency = Budget("accuracy", 0.9), Budget("latency_ms", 10.0)
    assert accuracy.rank(cheap) < accuracy.rank(true)
    assert latency.rank(true) < latency.rank(cheap)
    assert accuracy.miss(true) < accuracy.miss(cheap)
    assert latency.miss(cheap) < latency.miss(true)


def test_a_stricter_budget_asks_for_a_little_more() -> None:
    accuracy, latency = Budget("accuracy", 0.99).stricter, Budget("latency_ms", 40.0).stricter
    assert (accuracy.text, latency.text) == ("accuracy=0.995", "latency_ms=36")
    just = Score(400, 398, 1.0, 38.0)
    assert Budget("accuracy", 0.99).met(just)
    assert not accuracy.met(just)
    assert not latency.met(just)


def test_latency_is_met_up_to_its_value() -> None:
    budget = Budget("latency_ms", 10.0)
    assert budget.met(Score(1, 0, 1.0, 10.0))
    assert not budget.met(Score(1, 1, 1.0, 10.01))
    assert not budget.possible(Score(1, 1, 1.0, 10.01), 100)


@pytest.mark.parametrize("kind", BUDGETS.values(), ids=BUDGETS.keys())
def test_examples_are_read(kind: object) -> None:
    text = kind.example  # type: ignore[attr-defined]
    budget = parse_budget(f" {text.replace('=', ' = ')} ")
    assert f"{budget.name}={budget.value:g}" == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("accuracy", 'is "accuracy", expected a name and a value'),
        ("", 'is "", expected a name and a value'),
        ("latency=40", 'names "latency"'),
        ("accuracy=1", 'accuracy is "1", expected a share'),
        ("accuracy=99", 'accuracy is "99", expected a share'),
        ("accuracy=0.49", 'accuracy is "0.49", expected a share'),
        ("accuracy=nan", 'accuracy is "nan", expected a share'),
        ("accuracy=", 'accuracy is "", expected a share'),
        ("latency_ms=0", 'latency_ms is "0", expected a mean time'),
        ("latency_ms=-3", 'latency_ms is "-3", expected a mean time'),
        ("latency_ms=inf", 'latency_ms is "inf", expected a mean time'),
        ("latency_ms=40ms", 'latency_ms is "40ms", expected a mean time'),
    ],
)
def test_budgets_that_are_none_are_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert told in caught.value.problem


def test_a_budget_that_is_misspelt_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse_budget("latency=40")
    assert 'Did you mean "latency_ms"?' in caught.value.fix


@given(st.text())
def test_any_text_is_a_budget_or_refused(text: str) -> None:
    try:
        budget = parse_budget(text)
    except UsageError:
        return
    assert BUDGETS[budget.name].allows(budget.value)
