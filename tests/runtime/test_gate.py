"""The gate against a plain ranking in Python, and against what each policy promises."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy
from stc_runtime.gate import GateState, decide

SEEN = GateState(frames_since_full=0, has_reference=True, frames=1)
similarities = st.lists(
    st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.5, 0.949, 0.95, math.nan])), min_size=1, max_size=40
).map(lambda values: np.array(values, np.float32))


def adaptive(**settings: float) -> Policy:
    """Settings of a gate that does not skip a frame for long, without margin and warm-up unless they are asked for."""
    plain = GatePolicy(tau=0.95, margin=0, floor=0.1, max_interval=8, warmup=1)
    return Policy(gate=dataclasses.replace(plain, **settings))


def paper(interval: int, ratio: float) -> Policy:
    return Policy(gate=GatePolicy(mode="paper"), cacher=CacherPolicy(interval=interval, update_ratio=ratio))


def lowest(similarity: np.ndarray, count: int) -> list[int]:
    ranks = [(-2.0 if math.isnan(s) else float(s), i) for i, s in enumerate(similarity)]
    return sorted(i for _, i in sorted(ranks)[:count])


def run(policy: Policy, frames: list[np.ndarray]) -> list[str]:
    state, modes = GateState(), []
    for similarity in frames:
        decision, state = decide(policy, state, similarity)
        modes.append(decision.mode)
    return modes


@given(similarities)
def test_decide_off_every_frame_full(similarity: np.ndarray) -> None:
    decision, state = decide(Policy(gate=GatePolicy(mode="off")), SEEN, similarity)
    assert decision.mode == "full"
    assert decision.indices.tolist() == list(range(len(similarity)))
    assert state == GateState(frames_since_full=0, has_reference=True, frames=2)


def test_decide_paper_interval_two_every_other_frame_full() -> None:
    modes = run(paper(2, 0.25), [np.ones(729, np.float32)] * 6)
    assert modes == ["full", "selective"] * 3


def test_decide_paper_quarter_of_729_recomputes_182() -> None:
    similarity = np.random.default_rng(0).random(729, np.float32)
    decision, _ = decide(paper(4, 0.25), SEEN, similarity)
    assert decision.indices.tolist() == lowest(similarity, 182)
    assert decision.indices.dtype == np.int64


@pytest.mark.parametrize(("ratio", "expected"), [(0.001, 1), (1.0, 20), (0.5, 10), (0.34, 6)])
def test_decide_paper_ratio_clamped_to_frame(ratio: float, expected: int) -> None:
    decision, _ = decide(paper(4, ratio), SEEN, np.ones(20, np.float32))
    assert decision.mode == "selective"
    assert decision.indices.tolist() == list(range(expected))  # all equal: lower index first


def test_decide_paper_many_ties_lower_index_first() -> None:
    similarity = np.random.default_rng(0).integers(0, 3, 729).astype(np.float32)
    decision, _ = decide(paper(4, 0.5), SEEN, similarity)
    assert decision.indices.tolist() == lowest(similarity, 364)


def test_decide_paper_without_reference_full() -> None:
    state = GateState(frames_since_full=1, has_reference=False, frames=1)
    decision, _ = decide(paper(4, 0.25), state, np.ones(8, np.float32))
    assert decision.mode == "full"


@settings(max_examples=300)
@given(
    similarities,
    st.sampled_from([0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([1, 2, 5, 1000]),
)
def test_decide_adaptive_any_similarity_equals_plain_rules(
    similarity: np.ndarray, tau: float, cut: float, floor: float, bucket: int
) -> None:
    changed = sum(math.isnan(s) or s < np.float32(tau) for s in similarity)
    decision, state = decide(adaptive(tau=tau, cut=cut, floor=floor, bucket=bucket), SEEN, similarity)
    tokens = len(similarity)
    if changed / tokens > cut:
        expected = ("full", list(range(tokens)))
    elif changed == 0:
        expected = ("skip", [])
    else:
        least = max(changed, math.ceil(floor * tokens))
        rounded = next((size for size in range(0, tokens, bucket) if size >= least), tokens)
        expected = ("selective", lowest(similarity, rounded))
    assert (decision.mode, decision.indices.tolist()) == expected
    assert decision.indices.dtype == np.int64
    assert state.frames == 2
    assert state.frames_since_full == (0 if decision.mode == "full" else 1)


@given(st.integers(1, 9), st.integers(0, 10), st.data())
def test_decide_adaptive_margin_adds_the_places_around_a_change(side: int, margin: int, data: st.DataObject) -> None:
    changed = data.draw(st.lists(st.booleans(), min_size=side * side, max_size=side * side).filter(any))
    similarity = np.where(changed, 0.0, 1.0).astype(np.float32)
    decision, _ = decide(adaptive(margin=margin, cut=1.0, floor=0.0), SEEN, similarity)
    places = [divmod(i, side) for i in range(side * side)]
    expected = [
        i
        for i, (row, column) in enumerate(places)
        if any(c and max(abs(row - y), abs(column - x)) <= margin for c, (y, x) in zip(changed, places, strict=True))
    ]
    assert (decision.mode, decision.indices.tolist()) == ("selective", expected)


def test_decide_adaptive_margin_does_not_make_a_cut_but_counts_for_the_floor() -> None:
    similarity = np.ones(25, np.float32)
    similarity[12] = 0.0  # in the middle: nine tokens with its margin
    similarity[24] = 0.97
    decision, _ = decide(adaptive(margin=1, cut=0.1, floor=0.4), SEEN, similarity)
    assert decision.indices.tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18, 24]
    decision, _ = decide(adaptive(margin=1, cut=0.03, floor=0.4), SEEN, similarity)
    assert decision.mode == "full"


def test_decide_adaptive_first_frame_full_whatever_the_similarity() -> None:
    decision, state = decide(adaptive(), GateState(), np.ones(5, np.float32))
    assert decision.mode == "full"
    assert state == SEEN


def test_decide_adaptive_still_scene_full_every_max_interval() -> None:
    modes = run(adaptive(max_interval=4), [np.ones(10, np.float32)] * 9)
    assert modes == ["full", "skip", "skip", "skip"] * 2 + ["full"]


@given(st.lists(similarities, max_size=30), st.integers(1, 6))
def test_decide_adaptive_warmup_adds_full_frames_at_the_start_alone(frames: list[np.ndarray], warmup: int) -> None:
    policy = adaptive(max_interval=1000)
    modes = run(dataclasses.replace(policy, gate=dataclasses.replace(policy.gate, warmup=warmup)), frames)
    assert modes[:warmup] == ["full"] * len(frames[:warmup])
    assert modes[warmup:] == run(policy, frames)[warmup:]


def test_decide_adaptive_warmup_is_a_full_frame_from_which_the_interval_counts() -> None:
    modes = run(adaptive(max_interval=4, warmup=3), [np.ones(10, np.float32)] * 11)
    assert modes == ["full"] * 3 + ["skip"] * 3 + ["full"] + ["skip"] * 3 + ["full"]


def test_decide_adaptive_warmup_keeps_a_part_of_what_did_not_change() -> None:
    similarity = np.array([0.0, 1.0, 1.0, 1.0], np.float32)
    policy = dataclasses.replace(adaptive(cut=0.5, warmup=2), cacher=CacherPolicy(gain=0.25))
    decision, _ = decide(policy, SEEN, similarity)
    assert (decision.mode, decision.gain.tolist()) == ("full", [1.0, 0.25, 0.25, 0.25])


@given(st.lists(similarities, max_size=30), st.integers(1, 6))
def test_decide_adaptive_any_stream_full_within_max_interval(frames: list[np.ndarray], interval: int) -> None:
    modes = run(adaptive(max_interval=interval), frames)
    for first in range(len(modes) - interval + 1):
        assert "full" in modes[first : first + interval]


def test_decide_adaptive_share_equal_to_cut_stays_selective() -> None:
    similarity = np.array([0.1] * 4 + [1.0] * 6, np.float32)
    assert decide(adaptive(cut=0.4), SEEN, similarity)[0].mode == "selective"
    similarity[4] = 0.1
    assert decide(adaptive(cut=0.4), SEEN, similarity)[0].mode == "full"


def test_decide_adaptive_nan_token_recomputed_first() -> None:
    similarity = np.array([1.0, 0.2, np.nan, 1.0, 1.0, 1.0], np.float32)
    decision, _ = decide(adaptive(floor=0.0, cut=1.0), SEEN, similarity)
    assert decision.indices.tolist() == [1, 2]


def test_decide_does_not_change_similarity() -> None:
    similarity = np.array([np.nan, 0.2, 1.0], np.float32)
    copy = similarity.copy()
    decide(paper(4, 0.5), SEEN, similarity)
    np.testing.assert_array_equal(similarity, copy)


@given(st.integers(1, 7), st.integers(0, 2), st.sampled_from([0.05, 0.5, 1.0]), st.data())
def test_decide_adaptive_full_by_interval_keeps_a_part_of_what_did_not_change(
    side: int, margin: int, gain: float, data: st.DataObject
) -> None:
    changed = data.draw(st.lists(st.booleans(), min_size=side * side, max_size=side * side))
    similarity = np.where(changed, 0.0, 1.0).astype(np.float32)
    policy = adaptive(margin=margin, cut=1.0, max_interval=1)
    policy = dataclasses.replace(policy, cacher=CacherPolicy(gain=gain, drift=1.0))
    decision, _ = decide(policy, SEEN, similarity)
    cells = [divmod(i, side) for i in range(side * side) if changed[i]]
    near = [any(max(abs(i // side - y), abs(i % side - x)) <= margin for y, x in cells) for i in range(side * side)]
    assert decision.mode == "full"
    assert decision.gain.tolist() == [1.0 if one else np.float32(gain) for one in near]
    assert decision.drift.tolist() == [0.0] * side * side


def test_decide_adaptive_after_a_cut_and_at_the_start_nothing_is_kept() -> None:
    policy = dataclasses.replace(adaptive(cut=0.4, max_interval=1), cacher=CacherPolicy(gain=0.3, drift=0.7))
    cut = np.array([0, 0, 1, 1], np.float32)
    for state, similarity in ((SEEN, cut), (GateState(), np.ones(4, np.float32))):
        decision, _ = decide(policy, state, similarity)
        assert decision.mode == "full"
        assert decision.gain.tolist() == [1.0] * 4
        assert decision.drift.tolist() == [0.0] * 4


def test_decide_adaptive_selective_drift_is_shared_by_what_was_recomputed_unchanged() -> None:
    similarity = np.ones(25, np.float32)
    similarity[6] = 0.0  # row 1, column 1: eight neighbours, all inside
    policy = dataclasses.replace(adaptive(margin=1, cut=1.0, floor=0.0), cacher=CacherPolicy(gain=0.3, drift=0.4))
    decision, _ = decide(policy, SEEN, similarity)
    assert decision.indices.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    np.testing.assert_allclose(decision.drift, [0.05] * 4 + [0.0] + [0.05] * 4, rtol=1e-6)
    assert decision.gain.tolist() == [1.0] * 9


def test_decide_adaptive_selective_without_unchanged_tokens_has_no_drift() -> None:
    similarity = np.array([0, 1, 1, 1], np.float32)
    policy = dataclasses.replace(adaptive(margin=0, cut=1.0, floor=0.0), cacher=CacherPolicy(drift=1.0))
    decision, _ = decide(policy, SEEN, similarity)
    assert (decision.indices.tolist(), decision.drift.tolist()) == ([0], [0.0])


@pytest.mark.parametrize("mode", ["off", "paper"])
def test_decide_other_modes_overwrite(mode: Literal["off", "paper"]) -> None:
    policy = Policy(gate=GatePolicy(mode=mode), cacher=CacherPolicy(interval=2, gain=0.3, drift=0.7))
    state = GateState()
    for _ in range(4):
        decision, state = decide(policy, state, np.linspace(0, 1, 16, dtype=np.float32))
        assert decision.gain.tolist() == [1.0] * len(decision.indices)
        assert decision.drift.tolist() == [0.0] * len(decision.indices)
