from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from stc_export.spec import codec
from stc_export.world import frozen
from stc_export.world.frozen import FrozenQuiz, FrozenSet
from stc_export.world.splits import Quiz, digest

#: Of the digests of all clips.
SHA256 = "bac5fc2165c68a6254d7e3f61883996af3907cb65b3fd6614c79d90efcce3863"


def test_committed_set_is_the_one_that_results_refer_to() -> None:
    committed = frozen.committed()
    assert committed.sha256 == SHA256
    assert hashlib.sha256("".join(clip.sha256 for clip in committed.clips).encode()).hexdigest() == SHA256
    assert codec.to_json(committed) == frozen.FILE.read_text(encoding="utf-8")


def test_committed_names_and_counts_are_those_of_the_test_set(quizzes: tuple[Quiz, ...]) -> None:
    found = [(quiz.clip.name, len(quiz.questions)) for quiz in quizzes]
    assert found == [(clip.name, clip.questions) for clip in frozen.committed().clips]


def test_sample_of_the_test_set_has_the_committed_digests(quizzes: tuple[Quiz, ...]) -> None:
    committed = frozen.committed().clips
    for place in range(0, len(quizzes), 24):
        assert digest(quizzes[place]) == committed[place].sha256, quizzes[place].clip.name


@pytest.mark.slow
def test_whole_test_set_has_the_committed_digests(quizzes: tuple[Quiz, ...]) -> None:
    assert frozen.freeze(quizzes) == frozen.committed()


def test_differing_names_clips_that_are_missing_new_or_changed() -> None:
    a, b, c = (FrozenQuiz(f"test/{number}", 3, str(number) * 64) for number in range(3))
    before = FrozenSet("", (a, b))
    assert frozen.differing(before, before) == ()
    assert frozen.differing(FrozenSet("", (a, replace(b, questions=4), c)), before) == ("test/1", "test/2")
    assert frozen.differing(FrozenSet("", ()), before) == ("test/0", "test/1")
