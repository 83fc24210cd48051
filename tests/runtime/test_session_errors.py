"""Wrong calls on a session: what they raise, and that the stream goes on as if they had not been."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stc_export.spec.errors import (
    DeviceError,
    FrameError,
    PolicyError,
    QuestionError,
    ResourceError,
    SessionStateError,
    StcError,
)
from stc_export.spec.policy import MemoryPolicy, Policy, PrunerPolicy
from stc_runtime import Model, StreamSession
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import Workshop, scene, watch

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.spec.manifest import GraphEntry
    from stc_runtime.backends.base import Arrays, Engine
from stc_runtime.backends.store import HostMemory

FRAME = scene(1)[0]
CONVERT = "Convert it first, for example with numpy.asarray(frame)."
SCALE = "Scale the values to 0..255 and convert them with frame.astype(numpy.uint8)."
NUMBER = "Pass a finite number."
IDS = "Use the tokenizer.json of the bundle."

BAD_PUSHES: dict[str, tuple[Any, Any, str, str]] = {
    "float": (
        FRAME / 255.0,
        9.0,
        "The frame is float64 [96, 128, 3], expected uint8 [height, width, 3].",
        SCALE,
    ),
    "grey": (
        FRAME[:, :, 0],
        9.0,
        "The frame is uint8 [96, 128], expected uint8 [height, width, 3].",
        "Repeat a grey frame with numpy.stack([frame] * 3, axis=2).",
    ),
    "alpha": (
        np.zeros((4, 5, 4), np.uint8),
        9.0,
        "The frame is uint8 [4, 5, 4], expected uint8 [height, width, 3].",
        "Drop the alpha channel with frame[:, :, :3].",
    ),
    "empty": (
        np.zeros((0, 5, 3), np.uint8),
        9.0,
        "The frame is 5 pixels wide and 0 high, expected at least 1 by 1.",
        "Skip empty frames before pushing them.",
    ),
    "list": (
        [[[0, 0, 0]]],
        9.0,
        "The frame is a list, expected a numpy array of uint8 [height, width, 3].",
        CONVERT,
    ),
    "none": (None, 9.0, "The frame is a NoneType, expected a numpy array of uint8 [height, width, 3].", CONVERT),
    "backwards": (
        FRAME,
        1.5,
        "The frame's time is 1.5 s, but the last frame's was 2 s.",
        "Push frames in order, or call reset() for a new stream.",
    ),
    "nan": (FRAME, math.nan, "The frame's time is nan, expected seconds.", NUMBER),
    "infinite": (FRAME, math.inf, "The frame's time is inf, expected seconds.", NUMBER),
    "text": (FRAME, "9", "The frame's time is '9', expected seconds.", NUMBER),
    "none time": (FRAME, None, "The frame's time is None, expected seconds.", NUMBER),
    "complex": (FRAME, 9j, "The frame's time is 9j, expected seconds.", NUMBER),
    "decimal": (FRAME, Decimal(9), "The frame's time is Decimal('9'), expected seconds.", NUMBER),
    "no float": (FRAME, 10**400, f"The frame's time is 1{'0' * 39}, expected seconds.", NUMBER),
}

EXAMPLE = "Ask something, for example: What is happening?"
Ask = Callable[[StreamSession], Any]
BAD_QUESTIONS: dict[str, tuple[Ask, str, str]] = {
    "empty": (lambda s: s.ask(""), "The question is empty, expected some text.", EXAMPLE),
    "blank": (lambda s: s.ask(" \n\t"), "The question is ' \\n\\t', expected some text.", EXAMPLE),
    "half a pair": (
        lambda s: s.ask("what\ud83d"),
        "The text has half a surrogate pair at character 5, expected valid Unicode.",
        "Decode the text as UTF-8 before you ask.",
    ),
    "no tokens to draw": (
        lambda s: s.ask("What?", max_tokens=0),
        "max_tokens is 0, expected at least 1.",
        "Raise max_tokens.",
    ),
    "no ids": (lambda s: s.ask_tokens([]), "The question has no token ids, expected at least one.", IDS),
    "id too large": (
        lambda s: s.ask_tokens([5, 512]),
        "The question has the token id 512, expected 0 to 511.",
        IDS,
    ),
    "negative id": (
        lambda s: s.ask_tokens(np.array([5, -1])),
        "The question has the token id -1, expected 0 to 511.",
        IDS,
    ),
    "ids of text": (lambda s: s.ask_tokens("What?"), "The question is 'What?', expected token ids.", IDS),
    "fractions": (lambda s: s.ask_tokens([1.0, 2.0]), "The question is [1.0, 2.0], expected token ids.", IDS),
    "too many ids": (
        lambda s: s.ask_tokens([7] * 511),
        "The question has 512 tokens with its prompt, 511 fit beside one token of an answer.",
        "Shorten the question, or raise memory.answer_tokens in the policy.",
    ),
}


def go_on(session: StreamSession) -> None:
    watch(session, 3, 3)
    list(session.ask("Is it the same?", max_tokens=6))
    watch(session, 6, 1)


@pytest.fixture(scope="module")
def undisturbed(workshop: Workshop) -> list[bytes]:
    session = workshop.session()
    watch(session, 0, 3)
    return workshop.heard(lambda: go_on(session))


@pytest.fixture
def watching(workshop: Workshop) -> StreamSession:
    """A session that has seen the frames of seconds 0 to 2."""
    session = workshop.session()
    watch(session, 0, 3)
    return session


@pytest.mark.parametrize("case", list(BAD_PUSHES.values()), ids=list(BAD_PUSHES))
def test_bad_frame_raises_and_changes_nothing(
    workshop: Workshop, watching: StreamSession, undisturbed: list[bytes], case: tuple[Any, Any, str, str]
) -> None:
    frame, time_s, problem, fix = case
    with pytest.raises(FrameError) as caught:
        watching.push(frame, time_s)
    assert (caught.value.problem, caught.value.fix) == (problem, fix)
    assert workshop.heard(lambda: go_on(watching)) == undisturbed


@pytest.mark.parametrize("case", list(BAD_QUESTIONS.values()), ids=list(BAD_QUESTIONS))
def test_bad_question_raises_and_changes_nothing(
    workshop: Workshop, watching: StreamSession, undisturbed: list[bytes], case: tuple[Ask, str, str]
) -> None:
    ask, problem, fix = case
    with pytest.raises(QuestionError) as caught:
        list(ask(watching))
    assert (caught.value.problem, caught.value.fix) == (problem, fix)
    assert workshop.heard(lambda: go_on(watching)) == undisturbed


def test_question_longer_than_its_room_raises_and_changes_nothing(
    workshop: Workshop, watching: StreamSession, undisturbed: list[bytes]
) -> None:
    question = "why " * 300
    tail = workshop.model.tokenizer.encode_prompt(workshop.model.manifest.prompt.after_video, question)
    with pytest.raises(QuestionError) as caught:
        list(watching.ask(question))
    assert caught.value.problem == (
        f"The question has {len(tail) + 1} tokens with its prompt, 511 fit beside one token of an answer."
    )
    assert caught.value.fix == "Shorten the question, or raise memory.answer_tokens in the policy."
    assert workshop.heard(lambda: go_on(watching)) == undisturbed


def test_question_of_ten_thousand_words_names_both_numbers_before_a_frame_is_pushed(workshop: Workshop) -> None:
    session = workshop.session()
    session.check_question("What moves?")
    with pytest.raises(QuestionError, match=r"has \d{5} tokens with its prompt, 511 fit beside one token of an answer"):
        session.check_question("word " * 10_000)
    with pytest.raises(QuestionError, match="The question is empty"):
        session.check_question("")


def refused(action: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(SessionStateError) as caught:
        action()
    return caught.value.problem, caught.value.fix


def test_question_before_any_frame_raises_until_one_is_pushed(workshop: Workshop, undisturbed: list[bytes]) -> None:
    session = workshop.session()
    expected = ("A question was asked before any frame was pushed.", "Push a frame first.")
    assert refused(lambda: list(session.ask("What?"))) == expected
    assert refused(lambda: list(session.ask_tokens([1]))) == expected
    watch(session, 0, 3)
    assert workshop.heard(lambda: go_on(session)) == undisturbed
    session.reset()
    assert refused(lambda: list(session.ask("What?"))) == expected


def test_calls_while_an_answer_is_open_raise_until_it_is_closed(
    workshop: Workshop, watching: StreamSession, undisturbed: list[bytes]
) -> None:
    expected = (
        "An answer of this session is not finished.",
        "Exhaust or close the iterator that ask() returned first.",
    )
    with closing(watching.ask("What moves?")) as answer:
        next(answer)
        assert refused(lambda: watching.push(FRAME, 9.0)) == expected
        assert refused(lambda: list(watching.ask("And now?"))) == expected
        assert refused(watching.reset) == expected
        next(answer)
    assert workshop.heard(lambda: go_on(watching)) == undisturbed


def test_everything_after_close_raises_and_the_model_stays_open(workshop: Workshop, undisturbed: list[bytes]) -> None:
    with workshop.session() as session:
        watch(session, 0, 1)
    session.close()
    expected = ("The session is closed.", "Open a new one.")
    assert refused(lambda: session.push(FRAME, 9.0)) == expected
    assert refused(lambda: list(session.ask("What?"))) == expected
    assert refused(session.reset) == expected
    other = workshop.session()
    watch(other, 0, 3)
    assert workshop.heard(lambda: go_on(other)) == undisturbed


class Gatekeeper(HostMemory):
    """A backend whose LLM waits, or fails, at its next run when it is told to."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.wait = False
        self.error: BaseException | None = None

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        engine = FakeBackend().open(root, graph)
        return _Kept(engine, self) if graph.role == "llm" else engine


class _Kept:
    def __init__(self, engine: Engine, keeper: Gatekeeper) -> None:
        self._engine, self._keeper = engine, keeper

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, Any]:
        error, self._keeper.error = self._keeper.error, None
        if error is not None:
            raise error
        if self._keeper.wait:
            self._keeper.entered.set()
            assert self._keeper.leave.wait(30)
        return self._engine.run(feeds, into)


def test_calls_while_another_thread_is_in_a_push_raise_and_that_push_ends_well(tiny_bundle: Path) -> None:
    keeper = Gatekeeper()
    session = StreamSession(Model.open(tiny_bundle, keeper))
    watch(session, 0, 2)
    keeper.wait = True
    reports: list[object] = []
    thread = threading.Thread(target=lambda: reports.append(session.push(FRAME, 5.0)))
    thread.start()
    try:
        assert keeper.entered.wait(30)
        expected = ("The session is in use by another thread.", "Use one session per thread, or a lock.")
        assert refused(lambda: session.push(FRAME, 9.0)) == expected
        assert refused(lambda: list(session.ask("What?"))) == expected
        assert refused(session.reset) == expected
    finally:
        keeper.wait = False
        keeper.leave.set()
        thread.join(30)
    assert len(reports) == 1
    assert session.remembered_frames == 3
    session.push(FRAME, 5.0)


@pytest.mark.parametrize("error", [DeviceError("The device is gone.", "Wait."), KeyboardInterrupt()])
def test_push_that_fails_midway_leaves_a_session_that_takes_only_reset(tiny_bundle: Path, error: BaseException) -> None:
    keeper = Gatekeeper()
    session, plain = (StreamSession(Model.open(tiny_bundle, keeper)) for _ in range(2))
    watch(session, 0, 2)
    keeper.error = error
    with pytest.raises(type(error)):
        watch(session, 2, 1)
    expected = (
        "An earlier call on this session failed midway, so what it remembers may be incomplete.",
        "Call reset() to start a new stream.",
    )
    assert refused(lambda: session.push(FRAME, 9.0)) == expected
    assert refused(lambda: list(session.ask("What?"))) == expected
    session.reset()
    answers = []
    for each in (session, plain):
        watch(each, 0, 3)
        answers.append([piece.token for piece in each.ask("What?", max_tokens=8)])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("error", [DeviceError("The device is gone.", "Wait."), KeyboardInterrupt()])
@pytest.mark.parametrize("remember", [False, True])
def test_answer_that_fails_midway_changes_nothing(tiny_bundle: Path, error: BaseException, remember: bool) -> None:
    keeper = Gatekeeper()
    session, plain = (StreamSession(Model.open(tiny_bundle, keeper)) for _ in range(2))
    watch(session, 0, 2)
    watch(plain, 0, 2)
    answer = session.ask("What moves?", remember=remember)
    next(answer), next(answer)
    keeper.error = error
    with pytest.raises(type(error)):
        next(answer)
    answers = []
    for each in (session, plain):
        watch(each, 2, 1)
        answers.append([piece.token for piece in each.ask("What?", max_tokens=8)])
    assert answers[0] == answers[1]


WHOLE = PrunerPolicy(method="none", keep=1.0)
BAD_POLICIES: dict[str, tuple[Policy, type[StcError], str]] = {
    "no frame fits": (
        Policy(pruner=WHOLE, memory=MemoryPolicy(kv_tokens=11)),
        ResourceError,
        "The memory holds 11 tokens (memory.kv_tokens), but the prompt (3) and one frame (9) need 12.",
    ),
    "beyond the context": (
        Policy(memory=MemoryPolicy(kv_tokens=513)),
        PolicyError,
        "memory.kv_tokens is 513, but the model's context of 1024 leaves 512 beside 512 for the answer.",
    ),
    "no positions": (
        Policy(memory=MemoryPolicy(kv_tokens=8, answer_tokens=1014, positions="original")),
        ResourceError,
        "The model has 1024 positions, but the prompt (3), one frame (9) and memory.answer_tokens (1014) need 1026.",
    ),
}


@pytest.mark.parametrize("case", list(BAD_POLICIES.values()), ids=list(BAD_POLICIES))
def test_policy_that_the_model_cannot_serve_raises_before_a_frame(
    workshop: Workshop, case: tuple[Policy, type[StcError], str]
) -> None:
    policy, kind, problem = case
    with pytest.raises(kind) as caught:
        workshop.session(policy)
    assert caught.value.problem == problem
    assert caught.value.fix
    enough = dataclasses.replace(policy, memory=MemoryPolicy(kv_tokens=12))
    watch(workshop.session(enough), 0, 2)
