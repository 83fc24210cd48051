"""The order in which clips are spent, on tables of outcomes in place of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_calib.tuning.budgets import Budget, Score, lower_end
from stc_calib.tuning.search import Found, OutOfTimeError, confirm, nearest_miss, screen
from stc_calib.tuning.space import Candidate
from stc_export.spec.policy import Policy

EACH = 12
ACCURACY = Budget("accuracy", 0.9)


@dataclass
class TableTrials:
    """Stands for a model: wrong answers of each candidate on each clip, and what it costs."""

    lost: dict[str, list[int]]
    cost: dict[str, float]
    room: int = 1_000_000
    watched: dict[str, int] = field(default_factory=dict)

    def score(self, candidate: Candidate, clips: int) -> Score:
        name = candidate.name
        if clips > self.watched.get(name, 0):
            if not self.room:
                raise OutOfTimeError
            self.room -= 1
            self.watched[name] = clips
        asked = EACH * clips
        return Score(asked, asked - sum(self.lost[name][:clips]), self.cost[name], 10 * self.cost[name])


def named(names: str) -> list[Candidate]:
    return [Candidate(name, Policy()) for name in names]


def search(trials: TableTrials, budget: Budget, clips: int, screening: int = 2) -> Found:
    screened = screen(named("".join(trials.lost)), screening, trials)
    return confirm(screened, budget, clips, EACH * clips, trials)


@given(st.data())
def test_the_cheapest_candidate_that_meets_the_budget_is_found(data: st.DataObject) -> None:
    clips = data.draw(st.integers(2, 8))
    names = "abcdefgh"[: data.draw(st.integers(1, 8))]
    lost = {name: data.draw(st.lists(st.integers(0, 2), min_size=clips, max_size=clips)) for name in names}
    costs = data.draw(st.permutations(range(1, len(names) + 1)))
    cost = dict(zip(names, map(float, costs), strict=True))
    # Every candidate on every clip, without stopping early.
    right = {name: EACH * clips - sum(lost[name]) for name in names}
    good = [name for name in names if lower_end(right[name], EACH * clips) >= ACCURACY.value]
    found = search(TableTrials(lost, cost), ACCURACY, clips)
    expected = min(good, key=lambda name: cost[name]) if good else None
    assert (found.chosen.candidate.name if found.chosen else None) == expected


def test_hopeless_candidates_get_no_further_clip() -> None:
    trials = TableTrials(
        {"a": [0] * 9, "b": [12, 12, *[0] * 7], "c": [0, 0, 12, *[0] * 6]}, {"a": 3.0, "b": 1.0, "c": 2.0}
    )
    found = search(trials, ACCURACY, 9)
    assert trials.watched == {"a": 9, "b": 2, "c": 3}
    assert [trial.candidate.name for trial in found.confirmed] == ["c", "a"]
    assert found.chosen is found.confirmed[-1]


def test_all_candidates_see_the_same_clip_before_the_next() -> None:
    seen: list[tuple[str, int]] = []

    class Listening(TableTrials):
        def score(self, candidate: Candidate, clips: int) -> Score:
            seen.append((candidate.name, clips))
            return super().score(candidate, clips)

    screen(named("ab"), 2, Listening({"a": [0, 0], "b": [0, 0]}, {"a": 1.0, "b": 1.0}))
    assert seen == [(name, clips) for clips, name in product((1, 2), "ab")]


def test_screening_ends_with_the_time_and_keeps_what_it_has() -> None:
    trials = TableTrials({"a": [0, 0], "b": [0, 0], "c": [0, 0]}, {"a": 1.0, "b": 1.0, "c": 1.0}, room=4)
    screened = screen(named("abc"), 2, trials)
    assert [(trial.candidate.name, trial.clips) for trial in screened] == [("a", 2), ("b", 1), ("c", 1)]


def test_confirming_tells_that_the_time_is_up() -> None:
    trials = TableTrials({"a": [0] * 9}, {"a": 1.0}, room=4)
    with pytest.raises(OutOfTimeError):
        search(trials, ACCURACY, 9)


def test_latency_chooses_the_most_faithful_that_is_fast_enough() -> None:
    trials = TableTrials({"a": [0] * 5, "b": [1] * 5, "c": [2] * 5}, {"a": 3.0, "b": 2.0, "c": 1.0})
    found = search(trials, Budget("latency_ms", 20.0), 5)
    assert found.chosen is not None
    assert found.chosen.candidate.name == "b"


def test_a_budget_that_nothing_meets_has_a_nearest() -> None:
    trials = TableTrials({"a": [0] * 5, "b": [1] * 5}, {"a": 3.0, "b": 2.0})
    budget = Budget("latency_ms", 5.0)
    found = search(trials, budget, 5)
    assert found.chosen is None
    assert found.confirmed == ()
    assert nearest_miss(found.screened, budget).candidate.name == "b"
