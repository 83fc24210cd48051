"""Accuracy with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.validate.types import Answered, Interval

#: Resamplings of the bootstrap, and the seed of its draws.
_RESAMPLES = 9999
_SEED = 0


def accuracy(answers: Sequence[Answered]) -> Interval:
    """Return the share of right answers with Wilson's 95 % interval for a proportion.

    Args:
        answers: At least one.
    """
    from scipy.stats import binomtest

    right = sum(answer.correct for answer in answers)
    found = binomtest(right, len(answers)).proportion_ci(0.95, method="wilson")
    return Interval(right / len(answers), float(found.low), float(found.high), len(answers))


def difference(changed: Sequence[Answered], baseline: Sequence[Answered]) -> Interval:
    """Return accuracy minus the baseline's on the same questions, with a paired bootstrap's 95 % interval.

    Whole clips are drawn, since questions about one clip share its frames. The percentiles are those of the
    differences, which are 0 when all answers are equally right.

    Args:
        changed: Answers.
        baseline: Answers to the same questions in the same order.

    Raises:
        ValueError: The questions differ.
    """
    if [(a.clip, a.number) for a in changed] != [(b.clip, b.number) for b in baseline]:
        raise ValueError("a paired comparison needs the same questions in the same order")
    gains = np.array([a.correct - b.correct for a, b in zip(changed, baseline, strict=True)], np.float64)
    clips = np.unique([a.clip for a in changed], return_inverse=True)[1]
    low, high = _bootstrap(np.bincount(clips, gains), np.bincount(clips))
    return Interval(float(gains.mean()), low, high, len(gains))


def mean_interval(clips: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of all samples from a bootstrap that draws whole clips.

    Args:
        clips: The samples of each clip, at least one in each.
    """
    return _bootstrap(np.array([sum(own) for own in clips], np.float64), np.array([len(own) for own in clips]))


def _bootstrap(sums: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float]:
    drawn = np.random.default_rng(_SEED).integers(0, len(sums), (_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return float(low), float(high)


def mcnemar(changed: Sequence[Answered], baseline: Sequence[Answered]) -> float:
    """Return the two-sided p-value of McNemar's exact test on the same questions.

    Only questions that one of the two got right and the other wrong count. The test takes questions as independent;
    those about one clip are not quite, which :func:`difference` allows for.

    Args:
        changed: Answers.
        baseline: Answers to the same questions in the same order.
    """
    from scipy.stats import binomtest

    pairs = [(a.correct, b.correct) for a, b in zip(changed, baseline, strict=True)]
    gained, lost = pairs.count((True, False)), pairs.count((False, True))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def agreement(answers: Sequence[Answered], others: Sequence[Answered]) -> float:
    """Return the share of questions with the same answer, right or wrong."""
    return float(np.mean([a.given == b.given for a, b in zip(answers, others, strict=True)]))
