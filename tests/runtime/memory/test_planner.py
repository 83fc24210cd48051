"""The planner against a memory that renumbers every token."""

from __future__ import annotations

import dataclasses
import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stc_export.spec.errors import QuestionError, ResourceError
from stc_runtime.memory import planner
from stc_runtime.memory.planner import AdmitPlan, Limits, MemoryState, Segment
from tests.reference.naive_memory import NaiveMemory

Label = tuple[int, int]


class Buffers:
    """Slots that carry out plans as the KV memory does: labels and absolute positions, compact from slot 0."""

    def __init__(self, sink: int) -> None:
        self.labels: list[Label] = [(0, i) for i in range(sink)]
        self.positions = list(range(sink))

    def apply(self, plan: AdmitPlan, labels: list[Label], offsets: list[int]) -> None:
        for slots in (self.labels, self.positions):
            del slots[plan.sink : plan.sink + plan.evicted_slots]
        self.positions[plan.sink :] = [p - plan.rebase_by for p in self.positions[plan.sink :]]
        self.positions[: plan.sink] = range(plan.origin, plan.origin + plan.sink)
        assert plan.slot == len(self.labels)
        self.labels += labels
        self.positions += [plan.position + offset for offset in offsets]


class Run:
    """Planner, buffers and naive model side by side."""

    def __init__(self, limits: Limits, sink: int, tokens: int, span: int) -> None:
        self.limits = limits
        self.sink = sink
        self.state = planner.start(limits, sink, tokens, span)
        self.buffers = Buffers(sink)
        self.naive = NaiveMemory(limits.kv_tokens, limits.answer_tokens, limits.context, sink, limits.frames)

    def fits(self, tokens: int, span: int) -> bool:
        limits = self.limits
        return self.sink + tokens <= limits.kv_tokens and self.sink + span + limits.answer_tokens <= limits.context

    def admit(self, kind: planner.SegmentKind, offsets: list[int], span: int) -> AdmitPlan:
        before = dict(zip(self.buffers.labels, self.buffers.positions, strict=True))
        plan, self.state = planner.admit(self.state, kind, len(offsets), span)
        gone = self.naive.admit(kind, offsets, span)
        labels = [(self.naive.count, i) for i in range(len(offsets))]
        self.buffers.apply(plan, labels, offsets)
        assert plan.evicted_frames == gone.count("frame")
        self.check()
        survivors = [label for label in self.buffers.labels if label in before and label[0] > 0]
        after = dict(zip(self.buffers.labels, self.buffers.positions, strict=True))
        assert {before[label] - after[label] for label in survivors} <= {plan.rebase_by}
        return plan

    def check(self) -> None:
        state, limits, positions = self.state, self.limits, self.buffers.positions
        assert self.buffers.labels == [token.label for token in self.naive.tokens]
        assert [p - state.origin for p in positions] == [token.position for token in self.naive.tokens]
        assert all(a < b for a, b in itertools.pairwise(positions))
        assert state.origin >= 0
        assert len(positions) == state.used <= limits.kv_tokens
        assert limits.frames is None or state.frames <= limits.frames
        assert all(p < state.next_position for p in positions)
        assert state.next_position + limits.answer_tokens <= limits.context
        place = planner.question(state, limits.answer_tokens - 1)
        assert (place.slot, place.position, place.answer_room) == (state.used, state.next_position, 1)
        assert place.slot + limits.answer_tokens <= limits.capacity


@st.composite
def runs(draw: st.DrawFn) -> Run:
    sink, tokens = draw(st.integers(0, 6)), draw(st.integers(1, 6))
    span = tokens + draw(st.integers(0, 12))
    answer = draw(st.integers(1, 10))
    kv = sink + tokens + draw(st.integers(0, 30))
    context = sink + span + answer + draw(st.integers(0, 60))
    frames = draw(st.none() | st.integers(1, 4))
    return Run(Limits(kv, answer, context, frames), sink, tokens, span)


@st.composite
def segments(draw: st.DrawFn) -> tuple[planner.SegmentKind, list[int], int]:
    span = draw(st.integers(0, 18))
    kind = draw(st.sampled_from(["frame", "dialogue"]))
    if kind == "dialogue" or draw(st.booleans()):
        return kind, list(range(span)), span
    return kind, sorted(draw(st.sets(st.integers(0, span - 1)))) if span else [], span


@settings(max_examples=300, deadline=None)
@given(runs(), st.lists(segments(), max_size=30))
def test_admit_random_stream_equals_renumbered_memory(run: Run, stream: list) -> None:
    for kind, offsets, span in stream:
        if run.fits(len(offsets), span):
            run.admit(kind, offsets, span)
        elif offsets:
            with pytest.raises(ResourceError):
                planner.admit(run.state, kind, len(offsets), span)


class MemoryMachine(RuleBasedStateMachine):
    """Frames, dialogues, questions and refused segments in any order."""

    @initialize(run=runs())
    def begin(self, run: Run) -> None:
        self.run = run

    @rule(segment=segments())
    def admit_anything(self, segment: tuple[planner.SegmentKind, list[int], int]) -> None:
        kind, offsets, span = segment
        assume(self.run.fits(len(offsets), span))
        self.run.admit(kind, offsets, span)

    @rule(tokens=st.integers(1, 4))
    def admit_many_frames(self, tokens: int) -> None:
        assume(self.run.fits(tokens, tokens))
        for _ in range(20):
            self.run.admit("frame", list(range(tokens)), tokens)

    @precondition(lambda self: self.run.state.segments)
    @rule()
    def admit_nothing_changes_nothing(self) -> None:
        before = self.run.state
        plan = self.run.admit("frame", [], 5)
        assert self.run.state == before
        assert (plan.evicted_slots, plan.rebase_by, plan.origin) == (0, 0, before.origin)

    @rule(extra=st.integers(0, 5))
    def refuse_too_long_question(self, extra: int) -> None:
        with pytest.raises(QuestionError):
            planner.question(self.run.state, self.run.limits.answer_tokens + extra)

    @rule(extra=st.integers(1, 5))
    def refuse_too_large_frame(self, extra: int) -> None:
        tokens = self.run.limits.kv_tokens - self.run.sink + extra
        with pytest.raises(ResourceError):
            planner.admit(self.run.state, "frame", tokens, tokens)

    @invariant()
    def equal_to_naive(self) -> None:
        self.run.check()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_admit_budget_full_evicts_oldest_frame_and_lifts_sink() -> None:
    state = planner.start(Limits(kv_tokens=14, answer_tokens=4, context=100), 4, 5, 5)
    for _ in range(2):
        _, state = planner.admit(state, "frame", 5, 5)
    plan, state = planner.admit(state, "frame", 3, 3)
    assert plan == AdmitPlan(
        sink=4, evicted_slots=5, evicted_frames=1, rebase_by=0, origin=5, slot=9, position=14, tokens=3
    )
    assert (state.used, state.next_position, state.frames) == (12, 17, 2)


def test_admit_context_end_rebases_to_zero() -> None:
    state = planner.start(Limits(kv_tokens=12, answer_tokens=4, context=20), 2, 5, 5)
    for _ in range(2):
        _, state = planner.admit(state, "frame", 5, 5)
    plan, state = planner.admit(state, "frame", 5, 5)
    assert (plan.rebase_by, plan.origin, plan.position) == (5, 0, 7)
    assert state.next_position == 12


def test_admit_up_to_the_last_position_does_not_rebase() -> None:
    state = planner.start(Limits(kv_tokens=12, answer_tokens=4, context=21), 2, 5, 5)
    for _ in range(2):
        _, state = planner.admit(state, "frame", 5, 5)
    plan, state = planner.admit(state, "frame", 5, 5)
    assert (plan.rebase_by, plan.origin, plan.position) == (0, 5, 12)
    assert state.next_position + 4 == 21


def test_admit_long_span_evicts_for_positions_though_slots_are_free() -> None:
    state = planner.start(Limits(kv_tokens=100, answer_tokens=4, context=30), 2, 3, 10)
    for _ in range(2):
        _, state = planner.admit(state, "frame", 3, 10)
    plan, state = planner.admit(state, "frame", 3, 10)
    assert (plan.evicted_slots, plan.evicted_frames, plan.rebase_by, plan.position) == (3, 1, 10, 12)
    assert len(state.segments) == 2


def test_admit_dialogue_evicted_as_a_whole_and_not_counted_as_frame() -> None:
    state = planner.start(Limits(kv_tokens=20, answer_tokens=12, context=100), 2, 5, 5)
    _, state = planner.admit(state, "dialogue", 10, 10)
    _, state = planner.admit(state, "frame", 5, 5)
    plan, state = planner.admit(state, "frame", 5, 5)
    assert (plan.evicted_slots, plan.evicted_frames) == (10, 0)
    assert state.segments == (Segment("frame", 5, 5), Segment("frame", 5, 5))


def test_admit_more_frames_than_allowed_evicts_the_oldest_with_dialogues_before_it() -> None:
    state = planner.start(Limits(100, 4, 200, frames=2), 3, 5, 5)
    for kind in ("frame", "dialogue", "frame"):
        _, state = planner.admit(state, kind, 5, 5)  # type: ignore[arg-type]
    plan, state = planner.admit(state, "dialogue", 2, 2)
    assert (plan.evicted_slots, state.frames) == (0, 2)
    plan, state = planner.admit(state, "frame", 5, 5)
    assert (plan.evicted_slots, plan.evicted_frames, plan.origin) == (5, 1, 5)
    assert [segment.kind for segment in state.segments] == ["dialogue", "frame", "dialogue", "frame"]
    plan, state = planner.admit(state, "frame", 5, 5)
    assert (plan.evicted_slots, plan.evicted_frames) == (10, 1)
    assert [segment.kind for segment in state.segments] == ["dialogue", "frame", "frame"]


def test_admit_more_tokens_than_positions_refused() -> None:
    state = planner.start(Limits(20, 4, 100), 2, 5, 5)
    with pytest.raises(ValueError, match="6 tokens over 5 positions"):
        planner.admit(state, "frame", 6, 5)


def test_admit_does_not_change_its_argument() -> None:
    state = planner.start(Limits(12, 4, 20), 2, 5, 5)
    for _ in range(2):
        _, state = planner.admit(state, "frame", 5, 5)
    copy = dataclasses.replace(state)
    planner.admit(state, "frame", 5, 5)
    assert state == copy


def test_start_budget_too_small_for_one_frame_names_needed_and_got() -> None:
    with pytest.raises(ResourceError, match=r"holds 40 tokens .* prompt \(20\) and one frame \(58\) need 78") as caught:
        planner.start(Limits(40, 64, 4096), 20, 58, 58)
    assert "at least 78" in caught.value.fix


def test_start_context_too_small_for_one_frame_names_needed_and_got() -> None:
    with pytest.raises(ResourceError, match=r"has 512 positions.*answer_tokens \(512\) need 590"):
        planner.start(Limits(4096, 512, 512), 20, 58, 58)


def test_start_exact_fit_holds_one_frame() -> None:
    state = planner.start(Limits(78, 16, 94), 20, 58, 58)
    for _ in range(3):
        plan, state = planner.admit(state, "frame", 58, 58)
        assert (plan.slot, plan.position) == (20, 20)


def test_question_too_long_says_how_many_fit() -> None:
    state = planner.start(Limits(100, 16, 200), 4, 5, 5)
    assert planner.question(state, 15).answer_room == 1
    with pytest.raises(QuestionError, match="has 16 tokens with its prompt, 15 fit"):
        planner.question(state, 16)


def test_admit_hundred_thousand_frames_keeps_state_small() -> None:
    state: MemoryState = planner.start(Limits(300, 64, 4000), 14, 58, 196)
    shifted = evicted = 0
    for i in range(100_000):
        plan, state = planner.admit(state, "frame", 40 + i % 19, 196)
        shifted += plan.rebase_by
        evicted += plan.evicted_frames
    assert len(state.segments) <= 300 // 40
    assert evicted == 100_000 - len(state.segments)
    assert shifted + state.origin == 196 * evicted
    assert state.next_position + 64 <= 4000
