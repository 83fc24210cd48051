"""Every budget over whole streams: counts equal the reference's, totals are exact, nothing is kept of an old stream."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from stc_export.spec.errors import ParityError
from stc_export.spec.memory import BUDGET_COSTS, kept_tokens
from stc_export.spec.policy import Budget, PrunerPolicy
from stc_runtime.budgets import BUDGETS, FrameBudget
from stc_runtime.dtypes import narrowed, widened
from tests.reference.budgets import BUDGETS as REFERENCES
from tests.reference.budgets import Evs, VidCom2
from tests.runtime.budgets.streams import Array, Stream, budget_for, streams

NAMES = get_args(Budget)
#: Looks at the tokens of a frame.
LOOKING = [name for name in NAMES if BUDGET_COSTS[name].pruner_runs == 2]
#: A scene that drifts, two cuts, and stills between.
MOVING = Stream(49, 16, (0.0, 0.1, 0.2, 1.0, 0.0, 0.0, 0.5, 0.1, 1.0, *(0.05 * n for n in range(12))), 5)


def counts(budget: FrameBudget, frames: list[Array]) -> list[int]:
    return [budget.allot(lambda frame=frame: frame).count for frame in frames]  # type: ignore[misc]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=80, deadline=None)
@given(streams(), st.floats(0.25, 1), st.integers(1, 8), st.floats(0, 1))
def test_counts_of_any_stream_equal_the_reference(
    name: Budget, stream: Stream, keep: float, window: int, threshold: float
) -> None:
    policy = PrunerPolicy(keep=keep, history=window, budget=name, threshold=threshold)
    reference = REFERENCES[name](keep, window, threshold)
    frames = list(stream.frames())
    found = counts(budget_for(stream, policy), frames)
    assert found == [reference.count(frame) for frame in frames]
    assert min(found) >= 0
    assert max(found) <= BUDGET_COSTS[name].most(stream.tokens, policy) <= stream.tokens


@settings(max_examples=80, deadline=None)
@given(streams(), st.floats(1e-3, 1), st.integers(1, 8))
def test_vidcom2_after_every_frame_the_total_is_that_of_the_shares_less_a_part_of_a_token(
    stream: Stream, keep: float, window: int
) -> None:
    budget, reference = (
        budget_for(stream, PrunerPolicy(keep=keep, history=window, budget="vidcom2")),
        VidCom2(keep, window),
    )
    total = 0
    for frame in stream.frames():
        reference.count(frame)
        (count,) = counts(budget, [frame])
        assert 1 <= count <= stream.tokens
        total += count
        assert -1e-6 < reference.due - total < 1


@settings(max_examples=80, deadline=None)
@given(streams(), st.floats(1e-3, 1), st.integers(1, 30))
def test_evs_after_every_frame_the_total_is_at_most_the_published_one(stream: Stream, keep: float, window: int) -> None:
    found = counts(budget_for(stream, PrunerPolicy(keep=keep, history=window, budget="evs")), list(stream.frames()))
    published = [Evs(keep, window).total(number, stream.tokens) for number in range(1, len(found) + 1)]
    assert found[0] == stream.tokens
    assert (np.cumsum(found) <= published).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.floats(0.25, 1), st.integers(1, 60))
def test_dycoke_the_first_of_four_is_whole_and_the_mean_share_is_keep(tokens: int, keep: float, windows: int) -> None:
    stream = Stream(tokens, 1, (), 0)
    budget = budget_for(stream, PrunerPolicy(keep=keep, budget="dycoke"))
    found = np.array(counts(budget, [np.zeros((tokens, 1), np.float32)] * (4 * windows))).reshape(windows, 4)
    assert (found[:, 0] == tokens).all()
    assert np.ptp(found[:, 1:]) <= 1
    assert kept_tokens(4 * windows * tokens, keep) - found.sum() in (0, 1)  # 1: where the last share is a hair below


def test_dycoke_history_is_the_first_and_the_third_of_each_window() -> None:
    budget = budget_for(MOVING, PrunerPolicy(keep=0.3, budget="dycoke"))
    remembered = [budget.allot(lambda: np.zeros((0, 0))).remembered for _ in range(8)]
    assert remembered == [True, False, True, False] * 2


@pytest.mark.parametrize("name", NAMES)
def test_reset_starts_the_stream_again_in_the_same_memory(name: Budget) -> None:
    budget = budget_for(MOVING, PrunerPolicy(keep=0.4, history=4, budget=name))
    frames, before = list(MOVING.frames()), budget.nbytes
    first = counts(budget, frames)
    budget.reset()
    assert counts(budget, frames) == first
    assert budget.nbytes == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("carried", ["float16", "uint16"])  # uint16 carries bfloat16
def test_half_tokens_are_counted_as_their_values_are(name: Budget, carried: str) -> None:
    policy = PrunerPolicy(keep=0.4, history=4, budget=name)
    halves = [narrowed(frame, carried) for frame in MOVING.frames()]
    found = counts(budget_for(MOVING, policy, carried), halves)
    assert found == counts(budget_for(MOVING, policy), [widened(half).astype(np.float32) for half in halves])


@pytest.mark.parametrize("name", LOOKING)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_tokens_that_are_not_finite_raise(name: Budget, wrong: float) -> None:
    budget = budget_for(MOVING, PrunerPolicy(budget=name))
    frame = next(MOVING.frames())
    frame[3, 5] = wrong
    with pytest.raises(ParityError) as caught:
        counts(budget, [frame])
    assert caught.value.problem == "The pruner gave visual tokens that are not finite: an overflow."


@pytest.mark.parametrize("name", NAMES)
def test_a_budget_looks_as_often_as_its_cost_says(name: Budget) -> None:
    looks = []
    budget = budget_for(MOVING, PrunerPolicy(budget=name))
    for frame in MOVING.frames():
        budget.allot(lambda frame=frame: looks.append(1) or frame)  # type: ignore[misc, func-returns-value]
    assert len(looks) == (BUDGET_COSTS[name].pruner_runs - 1) * len(MOVING.new)


@pytest.mark.parametrize("name", LOOKING)
def test_frames_of_zeros_are_counted(name: Budget) -> None:
    budget = budget_for(MOVING, PrunerPolicy(keep=0.5, budget=name))
    zeros = [np.zeros((MOVING.tokens, MOVING.width), np.float32)] * 3
    # A cosine with zero is 0: all frames are as unique, nothing is above the threshold, of equal scores the first stay.
    assert counts(budget, zeros) == {"vidcom2": [24, 25, 24], "dtd": [49, 49, 49], "evs": [49, 0, 0]}[name]


def test_still_frames_dtd_and_evs_keep_nothing_and_vidcom2_its_share() -> None:
    still = [next(MOVING.frames())] * 6
    found = {
        name: counts(budget_for(MOVING, PrunerPolicy(keep=1 / 7, budget=name)), still)  # type: ignore[arg-type]
        for name in ("dtd", "evs", "vidcom2")
    }
    assert found["dtd"] == [49, 0, 0, 0, 0, 0]
    assert found["evs"] == [49, 0, 0, 0, 0, 0]
    assert found["vidcom2"] == [7] * 6


def test_vidcom2_a_cut_gets_almost_twice_the_share_and_the_frames_before_it_keep_theirs() -> None:
    still, cut = np.tile(np.eye(2, dtype=np.float32)[:, None], (1, 50, 1))
    budget = budget_for(Stream(50, 2, (), 0), PrunerPolicy(keep=0.2, history=3, budget="vidcom2"))
    # 0.2 (1 + 1 - 1/4) of 50 are 17.5. The whole clip would have given the frames before the cut 7.5 each.
    assert counts(budget, [still, still, still, cut]) == [10, 10, 10, 17]


def test_dtd_threshold_is_a_bound_on_the_cosine_itself() -> None:
    before, after = np.eye(2, dtype=np.float32)[[0, 0, 0]], np.array([[1, 0], [3, 4], [-1, 0]], np.float32)
    for threshold, kept in ((0.5, 1), (0.61, 2), (0.59, 1), (1.0, 3), (0.0, 1)):
        budget = budget_for(Stream(3, 2, (), 0), PrunerPolicy(budget="dtd", threshold=threshold))
        assert counts(budget, [before, after]) == [3, kept]  # cosines 1, 0.6 and -1


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_on_the_page(name: Budget) -> None:
    policy = PrunerPolicy(history=7, budget=name)
    tokens, width = MOVING.tokens, MOVING.width
    expected = {
        "fixed": 0,
        "vidcom2": 16 * 8 * width,
        "dtd": 2 * tokens * width + 8 * tokens,
        "evs": 2 * tokens * width + 8 * tokens + 8 * 8 * tokens,
        "dycoke": 0,
    }
    assert budget_for(MOVING, policy, "float16").nbytes == expected[name]


def test_table_has_every_budget_with_a_cost_and_a_reference() -> None:
    assert tuple(BUDGETS) == tuple(BUDGET_COSTS) == tuple(REFERENCES) == NAMES


@pytest.mark.parametrize("name", ["evs", "vidcom2"])
def test_window_longer_than_the_stream_changes_nothing(name: Budget) -> None:
    policy = PrunerPolicy(keep=0.4, history=len(MOVING.new), budget=name)
    frames = list(MOVING.frames())
    assert counts(budget_for(MOVING, policy), frames) == counts(budget_for(MOVING, replace(policy, history=90)), frames)
