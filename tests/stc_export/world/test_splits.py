from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace

import pytest

from stc_export.world import splits
from stc_export.world.questions import GROUPS, LETTERS, TEMPLATES, Question
from stc_export.world.render import Renderer
from stc_export.world.scene import Clip
from stc_export.world.script import write_clip
from stc_export.world.splits import Quiz, ask_about, balanced, digest
from stc_export.world.state import tell
from tests.stc_export.world import blind

#: Of all questions of the test set, in order.
QUESTIONS_SHA256 = "be98034286b211271511a17c03f35f7954b2337a7a3398293d191d037cdfdae3"
#: Four standard deviations: one run in 16000 of an honest coin is further off.
DEVIATIONS = 4.0

#: Prints what depends on nothing but names.
PROGRAM = """
from stc_export.world import splits
from stc_export.world.script import write_clip
for name in ("train/0", "validation/3", "test/12"):
    print(splits.digest(splits.ask_about(write_clip(name), 19)))
print([question for quiz in splits.balanced("train", 1)[:20] for question in quiz.questions])
"""


def all_questions(quizzes: tuple[Quiz, ...]) -> list[Question]:
    return [question for quiz in quizzes for question in quiz.questions]


@pytest.fixture(scope="session")
def known() -> list[Question]:
    """Questions for training, balanced like the test set."""
    return all_questions(balanced(splits.TRAIN, 110))


def unnamed(clip: Clip) -> Clip:
    return replace(clip, name="")


def seeds(clip_name: str, frames: int) -> set[int]:
    """Seeds of all streams of a clip, worked out from the names of the streams."""
    names = [f"script/{clip_name}/0", f"questions/{clip_name}", f"light/{clip_name}"]
    names += [f"background/{clip_name}/{number}" for number in (0, 1)]
    names += [f"noise/{clip_name}/{number}" for number in range(frames)]
    return {int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) for name in names}


def test_two_processes_with_other_hash_seeds_make_the_same() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].splitlines()[0] == digest(ask_about(write_clip("train/0"), 19))


def test_questions_of_the_test_set_are_the_committed_ones(quizzes: tuple[Quiz, ...]) -> None:
    plain = [[quiz.clip.name, [asdict(question) for question in quiz.questions]] for quiz in quizzes]
    assert hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest() == QUESTIONS_SHA256


def test_test_set_has_enough_questions_in_every_group(quizzes: tuple[Quiz, ...]) -> None:
    questions = all_questions(quizzes)
    groups = Counter(question.group for question in questions)
    assert len(questions) >= 2000
    assert set(groups) == set(GROUPS)
    assert min(groups.values()) >= 400
    assert min(Counter(question.template for question in questions).values()) >= 110
    assert max(len(quiz.questions) for quiz in quizzes) <= 8


def test_every_answer_is_right_equally_often_for_every_subject(quizzes: tuple[Quiz, ...]) -> None:
    found: dict[str, Counter[str]] = {}
    for question in all_questions(quizzes):
        found.setdefault(question.text, Counter())[question.options[question.right]] += 1
    for template in TEMPLATES:
        for subject in template.subjects:
            answers = found.pop(template.text.format(subject))
            assert set(answers) == set(template.values)
            assert len(set(answers.values())) == 1
    assert found == {}


def test_letters_are_right_about_equally_often(quizzes: tuple[Quiz, ...]) -> None:
    letters = Counter(question.letter for question in all_questions(quizzes))
    deviation = (letters.total() * 0.25 * 0.75) ** 0.5
    assert all(abs(letters[letter] - letters.total() / 4) < DEVIATIONS * deviation for letter in LETTERS)


@pytest.mark.parametrize("name", sorted(blind.GUESSERS))
def test_guesser_without_video_is_no_better_than_chance(
    name: str, quizzes: tuple[Quiz, ...], known: list[Question]
) -> None:
    questions = all_questions(quizzes)
    rating = blind.GUESSERS[name](known)
    for group in (*GROUPS, ""):
        asked = [question for question in questions if group in ("", question.group)]
        deviation = (0.25 * 0.75 / len(asked)) ** 0.5
        assert abs(blind.accuracy(rating, asked) - 0.25) < DEVIATIONS * deviation, group


@pytest.mark.parametrize("name", sorted(blind.GUESSERS))
def test_guesser_finds_what_an_unbalanced_test_gives_away(name: str, known: list[Question]) -> None:
    """The guessers can do better where there is something to find: else the test above would prove nothing."""
    answers = {template.name: template.values[0] for template in TEMPLATES}
    gifts = [
        replace(question, options=tuple(options), right=options.index(answers[question.template]))
        for question in known
        if (options := sorted(question.options))
        and answers[question.template] in options
        and options.index(answers[question.template]) == 0
    ]
    assert blind.accuracy(blind.GUESSERS[name](gifts), gifts) > 0.9


def test_questions_are_true_of_their_clip(quizzes: tuple[Quiz, ...]) -> None:
    templates = {template.name: template for template in TEMPLATES}
    for quiz in quizzes[::10]:
        states = tell(quiz.clip)
        for question in quiz.questions:
            template = templates[question.template]
            subjects = [
                s for s in range(len(template.subjects)) if template.text.format(template.subjects[s]) == question.text
            ]
            assert template.answer(states[question.frame], subjects[0]) == question.options[question.right]
            assert question.at_s == question.frame / quiz.clip.fps
            assert not states[question.frame].shaken
        assert [q.frame for q in quiz.questions] == sorted(q.frame for q in quiz.questions)


def test_no_clip_of_the_test_set_is_one_for_training_or_validation(quizzes: tuple[Quiz, ...]) -> None:
    plans = {unnamed(quiz.clip) for quiz in quizzes}
    assert len(plans) == len(quizzes)
    assert all(quiz.clip.name.startswith("test/") for quiz in quizzes)
    for split in (splits.TRAIN, splits.VALIDATION):
        assert plans.isdisjoint(unnamed(write_clip(f"{split}/{number}")) for number in range(250))


def test_no_stream_of_the_test_set_has_the_seed_of_one_for_training(quizzes: tuple[Quiz, ...]) -> None:
    taken = set().union(*(seeds(quiz.clip.name, quiz.clip.frames) for quiz in quizzes))
    scripts = {
        int(hashlib.sha256(f"script/{split}/{number}/0".encode()).hexdigest()[:8], 16)
        for split in (splits.TRAIN, splits.VALIDATION)
        for number in range(50_000)
    }
    assert taken.isdisjoint(scripts)
    for split in (splits.TRAIN, splits.VALIDATION):
        assert all(taken.isdisjoint(seeds(f"{split}/{number}", 1)) for number in range(1000))


def test_questions_about_one_clip_are_of_different_templates() -> None:
    clip = write_clip("train/17")
    for count in (0, 5, 19, 40):
        names = [question.template for question in ask_about(clip, count).questions]
        assert len(names) == len(set(names)) <= count
    assert len(ask_about(clip, 5).questions) == 5
    assert ask_about(clip, 5) == ask_about(clip, 5)


def test_digest_changes_with_a_pixel_a_question_or_their_order() -> None:
    quiz = ask_about(write_clip("train/17"), 4)
    jolted = replace(quiz.clip, mirrored=not quiz.clip.mirrored)
    other = (replace(quiz.questions[0], right=(quiz.questions[0].right + 1) % 4), *quiz.questions[1:])
    digests = [
        digest(q)
        for q in (quiz, Quiz(jolted, quiz.questions), Quiz(quiz.clip, other), Quiz(quiz.clip, quiz.questions[::-1]))
    ]
    assert len(set(digests)) == 4


def test_digest_is_that_of_the_frames_and_the_json_of_the_questions() -> None:
    quiz = ask_about(write_clip("train/6"), 2)
    expected = hashlib.sha256(b"".join(frame.tobytes() for frame in Renderer(quiz.clip).frames()))
    expected.update(json.dumps([asdict(question) for question in quiz.questions], sort_keys=True).encode())
    assert digest(quiz) == expected.hexdigest()
