"""Accuracy and its uncertainty, against formulas written out here and against scipy's bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from stc_export.validate.statistics import accuracy, agreement, difference, mcnemar
from stc_export.validate.types import Answered


def answers(pattern: str, per_clip: int = 1, right: str = "A") -> list[Answered]:
    """One answer per letter of the pattern; consecutive ones share a clip."""
    return [
        Answered(f"clip/{place // per_clip}", place % per_clip, "kind", "group", right, given, given == right)
        for place, given in enumerate(pattern)
    ]


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson (1927), with the 97.5 % quantile of the normal distribution."""
    z = 1.959963984540054
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return middle - half, middle + half


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 10), (90, 100), (1990, 2210)])
def test_accuracy_has_wilsons_interval(k: int, n: int) -> None:
    found = accuracy(answers("A" * k + "B" * (n - k)))
    assert found.value == k / n
    assert found.n == n
    assert (found.low, found.high) == pytest.approx(wilson(k, n), abs=1e-9)


def test_difference_of_equal_answers_is_certainly_zero() -> None:
    found = difference(answers("ABBA"), answers("ACBA"))  # another wrong answer is as wrong
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_difference_is_the_difference_of_the_accuracies_and_antisymmetric() -> None:
    one, other = answers("AABBAABB" * 20, 4), answers("ABBBABAB" * 20, 4)
    found, back = difference(one, other), difference(other, one)
    assert found.value == pytest.approx(accuracy(one).value - accuracy(other).value)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert found.low < found.value < found.high


def test_difference_agrees_with_scipys_bootstrap_when_clips_have_one_question() -> None:
    rng = np.random.default_rng(1)
    one, other = ("".join(rng.choice(["A", "B"], 400, p=p)) for p in ((0.9, 0.1), (0.8, 0.2)))
    gains = np.array([(a == "A") - (b == "A") for a, b in zip(one, other, strict=True)], float)
    expected = bootstrap((gains,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(2))
    found = difference(answers(one), answers(other))
    interval = expected.confidence_interval
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.005)


def test_difference_draws_whole_clips() -> None:
    """Ten clips of forty equal questions say no more than ten questions do."""
    one, other = "A" * 200 + "B" * 200, "A" * 160 + "B" * 240
    together, apart = difference(answers(one, 40), answers(other, 40)), difference(answers(one), answers(other))
    assert together.value == apart.value
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_difference_needs_the_same_questions() -> None:
    with pytest.raises(ValueError, match="same questions"):
        difference(answers("AA"), answers("AA", 2))


def test_agreement_counts_equal_answers_right_or_wrong() -> None:
    assert agreement(answers("ABCD"), answers("ABDD")) == 0.75


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (1, 6, 0.125),  # 2 (C(7,0) + C(7,1)) / 2^7 = 16 / 128
        (6, 1, 0.125),
        (0, 5, 0.0625),  # 2 / 2^5
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_the_value_worked_out_by_hand(gained: int, lost: int, p: float) -> None:
    changed = answers("A" * gained + "B" * lost + "AABB")  # the last four are alike and do not count
    baseline = answers("B" * gained + "A" * lost + "AACC")
    assert mcnemar(changed, baseline) == pytest.approx(p, abs=1e-12)
