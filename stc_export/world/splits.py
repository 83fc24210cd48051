"""Which clips and questions are for training, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count

from stc_export.world.dice import Dice
from stc_export.world.questions import TEMPLATES, Question, Template, choose_options
from stc_export.world.render import Renderer
from stc_export.world.scene import Clip
from stc_export.world.script import write_clip
from stc_export.world.state import State, tell

#: Names of clips begin with one of these; what a clip holds depends on its name alone.
TRAIN, VALIDATION, TEST = "train", "validation", "test"
#: Least number of questions of each template in the test set: 19 templates.
_TEST_PER_TEMPLATE = 110
_VALIDATION_PER_TEMPLATE = 40
#: Most questions about one clip: more clips make the questions less alike.
_PER_CLIP = 8

#: What is counted: template, subject, answer.
Slot = tuple[str, str, str]


@dataclass(frozen=True)
class Quiz:
    """A clip and the questions about it, in order of time."""

    clip: Clip
    questions: tuple[Question, ...]


def test_set() -> tuple[Quiz, ...]:
    """Return the frozen test set (see :func:`digest`)."""
    return tuple(draw_test_set())


def draw_test_set() -> Iterator[Quiz]:
    """Yield the clips of the test set one by one, for those who need only the first ones."""
    return _draw_balanced(TEST, _TEST_PER_TEMPLATE)


def validation_set() -> tuple[Quiz, ...]:
    """Return the questions for choosing between models."""
    return balanced(VALIDATION, _VALIDATION_PER_TEMPLATE)


def balanced(split: str, per_template: int) -> tuple[Quiz, ...]:
    """Collect questions clip by clip until every answer has come up equally often for every subject of every template.

    Args:
        split: First part of the clips' names.
        per_template: Least number of questions of each template; each subject and answer gets an equal share of them,
            rounded up.
    """
    return tuple(_draw_balanced(split, per_template))


def _draw_balanced(split: str, per_template: int) -> Iterator[Quiz]:
    quota = _quota(per_template)
    for number in count():
        if not quota.total():
            return
        clip = write_clip(f"{split}/{number}")
        questions = _draw(clip, quota)
        if questions:
            yield _quiz(clip, questions)


def ask_about(clip: Clip, most: int) -> Quiz:
    """Ask about one clip alone: random templates, subjects and answers; unlike :func:`balanced`, nothing is even.

    Args:
        clip: Any clip.
        most: Most questions, each of another template; there are fewer when less can be asked about the clip.
    """
    dice = Dice(f"ask/{clip.name}")
    states = _askable(clip)
    questions: list[Question] = []
    for template in dice.some(TEMPLATES, len(TEMPLATES)):
        found = _possible(template, states)
        if found and len(questions) < most:
            slot = dice.pick(sorted(found))
            questions.append(_question(clip, template, slot, dice.pick(found[slot]), dice))
    return _quiz(clip, questions)


def digest(quiz: Quiz) -> str:
    """Return the SHA-256 of a clip's frames and questions, in hexadecimal."""
    total = hashlib.sha256()
    for frame in Renderer(quiz.clip).frames():
        total.update(frame.tobytes())
    total.update(json.dumps([asdict(question) for question in quiz.questions], sort_keys=True).encode())
    return total.hexdigest()


def _quota(per_template: int) -> Counter[Slot]:
    quota: Counter[Slot] = Counter()
    for template in TEMPLATES:
        share = -(-per_template // (len(template.values) * len(template.subjects)))
        quota.update({(template.name, s, value): share for s in template.subjects for value in template.values})
    return quota


def _draw(clip: Clip, quota: Counter[Slot]) -> list[Question]:
    """Draw questions about a clip, those that are most wanted first, and count them off."""
    dice = Dice(f"questions/{clip.name}")
    states = _askable(clip)
    questions: list[Question] = []
    for template in sorted(dice.some(TEMPLATES, len(TEMPLATES)), key=lambda t: -_wanted(t, quota)):
        found = {slot: where for slot, where in _possible(template, states).items() if quota[slot]}
        if not found or len(questions) == _PER_CLIP:
            continue
        slot = max(sorted(found), key=lambda wanted: quota[wanted])
        questions.append(_question(clip, template, slot, dice.pick(found[slot]), dice))
        quota[slot] -= 1
    return questions


def _quiz(clip: Clip, questions: list[Question]) -> Quiz:
    return Quiz(clip, tuple(sorted(questions, key=lambda q: q.frame)))


def _askable(clip: Clip) -> list[State]:
    return [state for state in tell(clip) if not state.shaken]


def _question(clip: Clip, template: Template, slot: Slot, frame: int, dice: Dice) -> Question:
    _, subject, value = slot
    options, right = choose_options(template, value, dice)
    text = template.text.format(subject)
    return Question(template.name, template.group, frame, frame / clip.fps, text, options, right)


def _wanted(template: Template, quota: Counter[Slot]) -> int:
    return sum(quota[template.name, subject, value] for subject in template.subjects for value in template.values)


def _possible(template: Template, states: list[State]) -> dict[Slot, list[int]]:
    """Return the frames after which a subject has an answer."""
    found: dict[Slot, list[int]] = {}
    for state in states:
        for place, subject in enumerate(template.subjects):
            answer = template.answer(state, place)
            if answer is not None:
                found.setdefault((template.name, subject, answer), []).append(state.frame)
    return found
