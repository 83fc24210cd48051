"""The LLM of a stream against transformers: what it answers, what it forgets, and dialogue that it keeps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from stc_export.spec.errors import QuestionError
from stc_export.spec.policy import GatePolicy, MemoryPolicy, Policy, PrunerPolicy
from stc_runtime import Model, StreamSession
from tests.reference.eager_stream import EagerStream
from tests.runtime.conftest import Pair
from tests.runtime.scenes import Recorder, scene

#: Compresses nothing; room for four frames of 196 tokens in a context of 1,024.
OFF = Policy(
    gate=GatePolicy(mode="off"),
    pruner=PrunerPolicy(method="none", keep=1.0),
    memory=MemoryPolicy(kv_tokens=900, answer_tokens=124),
)
#: The prompt and five frames of 9 tokens, and positions for eleven.
SMALL = MemoryPolicy(kv_tokens=48, answer_tokens=916)
QUESTION, SECOND = "What moves in front of the flag?", "Is it the same as before?"
LONG = 24


def answer(session: StreamSession, question: str, count: int = LONG, *, remember: bool = False) -> list[int]:
    return [p.token for p in session.ask(question, max_tokens=count, remember=remember) if p.token >= 0]


def test_greedy_answers_at_several_times_of_a_stream_equal_generate(pair: Pair) -> None:
    frames = scene(2)
    lengths = []
    with StreamSession.open(pair.bundle, OFF, Recorder()) as session:
        for count, frame in enumerate(frames, start=1):
            session.push(frame, float(count))
            for question in {1: [QUESTION], 2: [SECOND, QUESTION]}[count]:
                tokens = answer(session, question)
                ids = pair.reference.turn(question, count)
                assert tokens == pair.reference.generate(ids, [frames[:count]], LONG)
                lengths.append(len(tokens))
                abandoned = session.ask("Never mind?")
                next(abandoned)
                abandoned.close()
    assert sorted(lengths)[1:] == [LONG] * 2  # one may end before, with the token that ends a turn


def test_remembered_dialogue_then_frames_equals_generate_on_the_whole_dialogue(pair: Pair) -> None:
    frames = scene(4)
    with StreamSession.open(pair.bundle, OFF, Recorder()) as session:
        for second, frame in enumerate(frames[:2]):
            session.push(frame, float(second))
        first = answer(session, QUESTION, remember=True)
        for second, frame in enumerate(frames[2:], start=2):
            session.push(frame, float(second))
        found = answer(session, SECOND)
    turns = pair.reference.turn(QUESTION, 2), pair.reference.turn(SECOND, 2)
    dialogue = [*turns[0], *first, pair.reference.end, *turns[1]]
    assert len(found) >= 20
    assert found == pair.reference.generate(dialogue, [frames[:2], frames[2:]], LONG)


class Beside:
    """A session and the reference that get the same frames and questions."""

    def __init__(self, pair: Pair, policy: Policy) -> None:
        self.pair, self.policy, self.recorder = pair, policy, Recorder()
        self.session = StreamSession.open(pair.bundle, policy, self.recorder)
        memory, span = policy.memory, 9 if policy.memory.positions == "original" else None
        self.sink, _ = self.around_video(QUESTION)
        self.eager = EagerStream(pair.reference, (memory.kv_tokens or 0, memory.answer_tokens), self.sink, span)
        self.frame_positions: list[int] = []
        self.evicted = 0

    def around_video(self, question: str) -> tuple[list[int], list[int]]:
        ids = self.pair.reference.turn(question, 0)  # the newline alone stands for the video
        place = ids.index(self.pair.reference.config.video_token_id)
        return ids[:place], ids[place + 1 :]

    def push(self, number: int) -> None:
        (frame,) = scene(1, first=number)
        report = self.session.push(frame, float(number))
        kept = self.recorder.kept()[-1]
        tokens = self.pair.reference.visual_tokens([frame])[0][kept]
        offsets = kept if self.policy.memory.positions == "original" else list(range(len(kept)))
        assert report.evicted_frames == self.eager.add_frame(tokens, offsets)
        self.evicted += report.evicted_frames
        self.frame_positions.append(self.recorder.positions()[-1][0] - offsets[0])
        self.check_size()

    def ask(self, question: str, count: int, *, remember: bool = False) -> None:
        _, tail = self.around_video(question)
        before = len(self.recorder.calls["llm"])
        tokens = answer(self.session, question, count, remember=remember)
        assert tokens == self.eager.answer(tail, count)
        np.testing.assert_allclose(self.recorder.logits()[before], self.eager.logits(tail), rtol=0, atol=2e-4)
        if remember:
            self.eager.remember([*tail, *tokens, self.pair.reference.end, *self.sink])
        self.check_size()

    def check_size(self) -> None:
        assert self.session.remembered_tokens == len(self.eager.memory.tokens)
        assert self.session.remembered_frames == list(self.eager.memory.kinds.values()).count("frame")

    @property
    def renumbered(self) -> int:
        return sum(after < before for before, after in pairwise(self.frame_positions))


@pytest.mark.parametrize(
    ("keep", "positions"),
    [(1.0, "contiguous"), (0.6, "contiguous"), (0.6, "original")],
    ids=["all", "pruned", "pruned original"],
)
def test_stream_that_forgets_and_renumbers_equals_positions_counted_anew(
    flavour_pair: Pair, keep: float, positions: str
) -> None:
    method = "none" if keep == 1.0 else "stc_dual_anchor"
    policy = Policy(
        gate=GatePolicy(mode="off"),
        pruner=PrunerPolicy(method=method, keep=keep),
        memory=replace(SMALL, positions=positions),
    )
    both = Beside(flavour_pair, policy)
    for number in range(45):
        both.push(number)
        if number % 6 == 5:
            both.ask(QUESTION, 5)
    assert both.evicted >= 30
    assert both.renumbered >= 2


def test_stream_in_8_bits_that_forgets_and_renumbers_stays_near_one_that_never_rounds(coded_pair: Pair) -> None:
    """The reference keeps keys before rotation in float32. Rounding must show, and must not add up over 45 frames."""
    both = Beside(coded_pair, replace(OFF, memory=SMALL))
    _, tail = both.around_video(QUESTION)
    errors = []
    for number in range(45):
        both.push(number)
        if number % 6 == 5:
            before = len(both.recorder.calls["llm"])
            answer(both.session, QUESTION, 1)
            expected = both.eager.logits(tail)
            errors.append(np.abs(both.recorder.logits()[before] - expected).max() / np.abs(expected).max())
    assert both.evicted >= 30
    assert both.renumbered >= 2
    assert min(errors) > 1e-5
    assert max(errors) < 0.02


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_remembered_dialogue_is_read_kept_and_forgotten_like_a_frame(flavour_pair: Pair, positions: str) -> None:
    memory = MemoryPolicy(kv_tokens=90, answer_tokens=850, positions=positions)
    both = Beside(flavour_pair, replace(OFF, memory=memory))
    for number in range(30):
        both.push(number)
        if number % 4 == 3:
            both.ask(QUESTION if number % 8 == 3 else SECOND, 6, remember=True)
        if number % 4 == 1:
            both.ask(SECOND, 4)
    assert "dialogue" in both.eager.memory.kinds.values()
    assert both.eager.memory.count - len(both.eager.memory.kinds) > 20  # segments that are gone
    assert both.renumbered >= 2


def test_remembered_answer_ends_where_the_memory_has_no_more_room(tiny_model: Model) -> None:
    tail = tiny_model.tokenizer.encode_prompt(tiny_model.manifest.prompt.after_video, QUESTION)
    fixed = 3 + 1 + len(tail) + len(tiny_model.manifest.prompt.next_turn)  # prompt, newline, question, next turn
    policy = replace(OFF, memory=MemoryPolicy(kv_tokens=fixed + 7, answer_tokens=512))
    session = StreamSession(tiny_model, policy)
    session.push(scene(1)[0], 0.0)
    assert len(answer(session, QUESTION)) == LONG
    assert session.remembered_frames == 1
    assert len(answer(session, QUESTION, remember=True)) == 7
    assert (session.remembered_tokens, session.remembered_frames) == (fixed + 7, 0)
    session.push(scene(1)[0], 1.0)  # the dialogue leaves again
    assert (session.remembered_tokens, session.remembered_frames) == (12, 1)


def test_question_that_could_not_be_remembered_with_an_answer_raises_before_it_is_read(tiny_model: Model) -> None:
    tail = tiny_model.tokenizer.encode_prompt(tiny_model.manifest.prompt.after_video, QUESTION)
    needed = 1 + len(tail) + len(tiny_model.manifest.prompt.next_turn)
    session = StreamSession(tiny_model, replace(OFF, memory=MemoryPolicy(kv_tokens=3 + needed, answer_tokens=512)))
    session.push(scene(1)[0], 0.0)
    with pytest.raises(QuestionError) as caught:
        answer(session, QUESTION, remember=True)
    assert caught.value.problem == (
        f"The question has {needed} tokens with its prompt, and the stream's memory has room for {needed} tokens: "
        "with an answer it cannot be remembered."
    )
    assert (session.remembered_tokens, session.remembered_frames) == (12, 1)
    assert len(answer(session, QUESTION)) == LONG
