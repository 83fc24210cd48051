"""What a session promises about its state: questions change nothing, reset forgets all, errors leave it as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stc_export.spec.policy import MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_runtime import Bundle, Model, StreamSession, TopP
from tests.runtime.scenes import Recorder, Workshop, scene, watch

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = "What moves in front of the flag?"
#: Memory that overflows after a few frames, in a cache whose size is no round number of slots.
TIGHT = MemoryPolicy(kv_tokens=47, answer_tokens=52)
POLICIES = {
    **named_policies(),
    "tight": replace(named_policies()["off"], memory=TIGHT),
    "tight original": replace(Policy(pruner=PrunerPolicy(keep=0.6)), memory=replace(TIGHT, positions="original")),
}


def go_on(session: StreamSession) -> None:
    """Frames 8 to 12 with a question in between: whatever differs in the session shows here."""
    watch(session, 8, 4)
    list(session.ask("Is it the same?", max_tokens=6))
    watch(session, 12, 1)


def asked(session: StreamSession) -> None:
    list(session.ask(QUESTION, max_tokens=20))


def abandoned(session: StreamSession) -> None:
    answer = session.ask(QUESTION, max_tokens=20)
    next(answer), next(answer)
    answer.close()


def dropped(session: StreamSession) -> None:
    for _ in session.ask(QUESTION):
        break


def not_begun(session: StreamSession) -> None:
    session.ask(QUESTION)


def sampled(session: StreamSession) -> None:
    list(session.ask(QUESTION, max_tokens=12, sampling=TopP(0.9, 1.5, seed=4)))


def asked_in_tokens(session: StreamSession) -> None:
    list(session.ask_tokens([10, 11, 12], max_tokens=12))


def abandoned_although_to_be_remembered(session: StreamSession) -> None:
    answer = session.ask(QUESTION, max_tokens=3, remember=True)
    next(answer)
    answer.close()


@pytest.mark.parametrize("policy", list(POLICIES.values()), ids=list(POLICIES))
def test_question_changes_no_bit_of_what_follows(workshop: Workshop, policy: Policy) -> None:
    plain = workshop.session(policy)
    watch(plain, 0, 8)
    expected = workshop.heard(lambda: go_on(plain))
    assert len(expected) >= 10
    questions = [asked, abandoned, dropped, not_begun, sampled, asked_in_tokens]
    for question in [*questions, abandoned_although_to_be_remembered]:
        session = workshop.session(policy)
        watch(session, 0, 3)
        question(session)
        watch(session, 3, 5)
        question(session)
        question(session)
        assert workshop.heard(lambda s=session: go_on(s)) == expected, question.__name__
        assert session.remembered_tokens == plain.remembered_tokens


def test_slots_that_the_llm_sees_depend_on_the_stream_and_not_on_questions(workshop: Workshop) -> None:
    """The order of a sum may depend on them on any backend, although on some it happens not to."""
    seen = []
    for question in (not_begun, asked):
        first = len(workshop.recorder.calls["llm"])
        session = workshop.session(replace(Policy(), memory=MemoryPolicy(kv_tokens=200, answer_tokens=57)))
        watch(session, 0, 5)
        question(session)
        middle = len(workshop.recorder.calls["llm"])
        watch(session, 5, 60)
        slots = workshop.recorder.past_slots()
        seen.append((slots[first : first + 6], slots[middle:]))
    assert seen[0] == seen[1]
    assert len(set(seen[0][1])) > 1  # it did grow


def test_memory_of_two_frames_never_holds_more_whatever_room_there_is(workshop: Workshop) -> None:
    off = named_policies()["off"]
    session = workshop.session(replace(off, memory=MemoryPolicy(frames=2)))
    reports = [session.push(frame, float(number)) for number, frame in enumerate(scene(5, 0))]
    assert [report.evicted_frames for report in reports] == [0, 0, 1, 1, 1]
    assert (session.remembered_frames, session.remembered_tokens) == (2, 3 + 2 * 9)


@pytest.mark.parametrize("policy", list(POLICIES.values()), ids=list(POLICIES))
def test_reset_equals_a_new_session_in_every_bit(workshop: Workshop, policy: Policy) -> None:
    used = workshop.session(policy)
    watch(used, 3, 9)
    list(used.ask(QUESTION, max_tokens=5, remember=policy.memory.kv_tokens is None))
    used.reset()
    assert (used.remembered_frames, used.remembered_tokens) == (0, 3)
    new = workshop.session(policy)
    again, expected = (workshop.heard(lambda s=s: (watch(s, 0, 8), asked(s), go_on(s))) for s in (used, new))
    assert again == expected
    assert len(expected) > 20


def answer(session: StreamSession, question: str = QUESTION, count: int = 24, **options: Any) -> list[int]:
    return [piece.token for piece in session.ask(question, max_tokens=count, **options) if piece.token >= 0]


@pytest.fixture
def watching(workshop: Workshop) -> StreamSession:
    """A session that has seen three frames."""
    session = workshop.session()
    watch(session, 0, 3)
    return session


def test_sampling_with_a_seed_repeats_and_with_another_differs(watching: StreamSession) -> None:
    texts = {seed: [answer(watching, sampling=TopP(0.95, 2.0, seed)) for _ in range(2)] for seed in range(4)}
    assert all(first == second for first, second in texts.values())
    assert len({tuple(first) for first, _ in texts.values()}) == 4
    assert answer(watching, sampling=TopP(1e-9, 1.0, seed=0)) == answer(watching)


def test_pieces_joined_are_the_text_of_the_tokens_and_times_grow(watching: StreamSession) -> None:
    pieces = list(watching.ask(QUESTION, max_tokens=24))
    tokens = [piece.token for piece in pieces if piece.token >= 0]
    tokenizer = watching._model.tokenizer
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(tokens)
    elapsed = [piece.elapsed_ms for piece in pieces]
    assert elapsed == sorted(elapsed)
    assert all(piece.step_ms > 0 for piece in pieces if piece.token >= 0)
    assert list(watching.ask_tokens(tokenizer.encode_prompt(watching.manifest.prompt.after_video, QUESTION))) == answer(
        watching, count=64
    )


def test_stop_token_ends_the_answer_and_is_no_part_of_it(workshop: Workshop, tiny_bundle: Path) -> None:
    plain = workshop.session()
    watch(plain, 0, 2)
    tokens = answer(plain)
    last = tokens[7]
    manifest = workshop.model.manifest
    stopping = replace(manifest, prompt=replace(manifest.prompt, stop_tokens=(last,)))
    session = StreamSession(Model(Bundle(tiny_bundle, stopping), Recorder()))
    watch(session, 0, 2)
    assert answer(session) == tokens[: tokens.index(last)]
    before = session.remembered_tokens
    assert answer(session, remember=True) == tokens[: tokens.index(last)]
    tail = len(session._model.tokenizer.encode_prompt(manifest.prompt.after_video, QUESTION))
    assert session.remembered_tokens - before == 1 + tail + tokens.index(last) + len(manifest.prompt.next_turn)


@pytest.mark.parametrize("count", [1, 2, 24])
def test_max_tokens_is_the_longest_answer(watching: StreamSession, count: int) -> None:
    assert len(answer(watching, count=count)) == count


def test_answer_ends_where_its_room_ends(workshop: Workshop) -> None:
    tail = len(workshop.model.tokenizer.encode_prompt(workshop.model.manifest.prompt.after_video, QUESTION))
    session = workshop.session(replace(Policy(), memory=MemoryPolicy(answer_tokens=tail + 1 + 9)))
    watch(session, 0, 2)
    assert len(answer(session)) == 9
    assert len(answer(session, remember=True)) == 9 - len(workshop.model.manifest.prompt.next_turn)


def test_frames_of_any_size_layout_and_clock_are_taken(workshop: Workshop) -> None:
    session = workshop.session()
    (frame,) = scene(1)
    times: list[Any] = [0, np.float32(0.5), 0.5, np.int64(7), Fraction(15, 2), 1e9]
    views = [frame, frame[::2, ::-1], frame[:1, :1], np.asfortranarray(frame), frame[:, 5:], frame[:70, :70]]
    reports = [session.push(view, time) for view, time in zip(views, times, strict=True)]
    assert [report.time_s for report in reports] == [0.0, 0.5, 0.5, 7.0, 7.5, 1e9]


def test_pushed_frame_is_neither_kept_nor_changed(workshop: Workshop) -> None:
    frames = [np.ascontiguousarray(frame[:70, :70]) for frame in scene(4)]  # of the model's size: nothing is resized
    plain, reused = workshop.session(), workshop.session()
    buffer = np.empty_like(frames[0])

    def push_all(session: StreamSession, hand: Callable[[np.ndarray], np.ndarray]) -> None:
        for second, frame in enumerate(frames):
            session.push(hand(frame), float(second))
            buffer.fill(0)
        asked(session)

    def overwritten(frame: np.ndarray) -> np.ndarray:
        buffer[...] = frame
        return buffer

    copies = [frame.copy() for frame in frames]
    expected = workshop.heard(lambda: push_all(plain, lambda frame: frame))
    assert workshop.heard(lambda: push_all(reused, overwritten)) == expected
    np.testing.assert_array_equal(frames, copies)
