"""In which order clips are spent on candidates: all of them on a few clips, then the best of those on all clips.

A candidate that can no longer meet the budget gets no further clip. Nothing here knows a model: :class:`Trials` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stc_calib.tuning.budgets import Budget, Score
from stc_calib.tuning.space import Candidate


class OutOfTimeError(Exception):
    """The time is up; what was watched until then is kept."""


class Trials(Protocol):
    """Watches clips under candidates. What was watched once is not watched again."""

    def score(self, candidate: Candidate, clips: int) -> Score:
        """Return what a candidate gives on the first ``clips`` clips.

        Raises:
            OutOfTimeError: A clip would have to be watched, and the time is up.
        """
        ...


@dataclass(frozen=True)
class Trial:
    """What is known of a candidate.

    Attributes:
        candidate: The candidate.
        clips: Clips that it was watched on, from the first.
        score: What it gave there.
    """

    candidate: Candidate
    clips: int
    score: Score


@dataclass(frozen=True)
class Found:
    """How a search ended.

    Attributes:
        screened: All candidates that were watched on the clips for screening, in the order of the candidates.
        confirmed: Those that were watched further, the best first, as far as they came.
        chosen: The last of ``confirmed`` if it meets the budget on all clips; ``None`` if none does.
    """

    screened: tuple[Trial, ...]
    confirmed: tuple[Trial, ...]
    chosen: Trial | None


def screen(candidates: Sequence[Candidate], clips: int, trials: Trials) -> tuple[Trial, ...]:
    """Watch all candidates on the first clips, one clip after the other; fewer when the time is up.

    Args:
        candidates: The candidates, the baseline first.
        clips: Clips to watch.
        trials: Who watches.
    """
    found: dict[str, Trial] = {}
    try:
        for count in range(1, clips + 1):
            for one in candidates:
                found[one.name] = Trial(one, count, trials.score(one, count))
    except OutOfTimeError:
        pass
    return tuple(found.values())


def confirm(screened: Sequence[Trial], budget: Budget, clips: int, questions: int, trials: Trials) -> Found:
    """Watch candidates on all clips, the most promising first, until one meets the budget.

    Args:
        screened: What screening gave.
        budget: What is asked for.
        clips: Clips in all.
        questions: Questions about them that count.
        trials: Who watches.

    Raises:
        OutOfTimeError: The time is up before one was found.
    """
    tried: list[Trial] = []
    for one in sorted(screened, key=lambda trial: budget.rank(trial.score)):
        if not budget.possible(one.score, questions):
            continue
        tried.append(_watch_further(one, budget, clips, questions, trials))
        if tried[-1].clips == clips and budget.met(tried[-1].score):
            return Found(tuple(screened), tuple(tried), tried[-1])
    return Found(tuple(screened), tuple(tried), None)


def _watch_further(one: Trial, budget: Budget, clips: int, questions: int, trials: Trials) -> Trial:
    while one.clips < clips and budget.possible(one.score, questions):
        one = Trial(one.candidate, one.clips + 1, trials.score(one.candidate, one.clips + 1))
    return one


def nearest_miss(screened: Sequence[Trial], budget: Budget) -> Trial:
    """Return what came nearest to a budget that nothing met."""
    return min(screened, key=lambda trial: budget.miss(trial.score))
