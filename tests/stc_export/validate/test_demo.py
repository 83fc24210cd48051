"""The world as a task: what is streamed, when it is asked, and what is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stc_export.spec.policy import Policy, PrunerPolicy, named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.baselines import blind_prior
from stc_export.validate.demo import run_quizzes
from stc_export.world.render import Renderer
from stc_export.world.script import write_clip
from stc_export.world.splits import Quiz, ask_about
from stc_runtime.session import StreamSession


@pytest.fixture(scope="module")
def quizzes() -> list[Quiz]:
    return [ask_about(write_clip(f"validation/{number}", 6), 4) for number in range(3)]


def test_run_quizzes_answers_as_a_session_that_is_driven_by_hand(tiny_bundle: Path, quizzes: list[Quiz]) -> None:
    outcome = run_quizzes(tiny_bundle, named_policies()["paper"], quizzes, Silent())
    expected = []
    for quiz in quizzes:
        frames = list(Renderer(quiz.clip).frames())
        for question in quiz.questions:  # a new session for each question
            with StreamSession.open(tiny_bundle, named_policies()["paper"]) as session:
                for number, frame in enumerate(frames[: question.frame + 1]):
                    session.push(frame, number / quiz.clip.fps)
                text = "".join(piece.text for piece in session.ask(question.prompt, max_tokens=2))
            expected.append((quiz.clip.name, question.letter, text.strip()[:1]))
    assert [(a.clip, a.right, a.given) for a in outcome.answers] == expected


def test_run_quizzes_counts_the_work(tiny_bundle: Path, quizzes: list[Quiz]) -> None:
    off = named_policies()["off"]
    frames = sum(quiz.clip.frames for quiz in quizzes)
    dense = run_quizzes(tiny_bundle, off, quizzes, Silent()).work
    assert (dense.frames, dense.full, dense.selective) == (frames, frames, 0)
    assert dense.vit_recomputed == dense.vit_tokens == 25 * frames
    assert dense.kept_tokens == dense.visual_tokens == 9 * frames
    half = replace(off, pruner=PrunerPolicy(method="random", keep=0.5))
    assert run_quizzes(tiny_bundle, half, quizzes, Silent()).work.kept_tokens == 4 * frames


def test_run_quizzes_does_not_carry_one_clip_into_the_next(tiny_bundle: Path, quizzes: list[Quiz]) -> None:
    alone = run_quizzes(tiny_bundle, Policy(), quizzes[1:2], Silent())
    after = run_quizzes(tiny_bundle, Policy(), quizzes[:2], Silent())
    assert after.answers[-len(alone.answers) :] == alone.answers


def test_blind_prior_takes_the_option_that_was_most_often_right(quizzes: list[Quiz]) -> None:
    question = quizzes[0].questions[0]
    loaded = replace(question, options=tuple(np.roll(question.options, 1).tolist()), right=(question.right + 1) % 4)
    seen = [replace(quizzes[0], questions=(loaded,) * 3)]
    asked = [replace(quizzes[0], questions=(question,))]
    assert blind_prior(seen, asked)[0].correct
