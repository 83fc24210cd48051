"""From the text of an answer to right or wrong, by name: published scorers of one benchmark disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from stc_export.validate.types import Answered, TaskQuestion


@dataclass(frozen=True)
class Verdict:
    """What a scorer says of an answer.

    Attributes:
        given: What it took for the answer; "" if it found none.
        correct: Whether that is right.
    """

    given: str
    correct: bool


#: From the text of an answer and the right answer to a verdict.
Scorer = Callable[[str, str], Verdict]


def _first_character(text: str, right: str) -> Verdict:
    given = text.strip()[:1]
    return Verdict(given, given == right)


def _same_text(text: str, right: str) -> Verdict:
    given = " ".join(text.split())
    return Verdict(given, given == " ".join(right.split()))


#: ``first_character``: the first character that is no white space is the letter. ``same_text``: all of the text is
#: equal but for white space.
SCORERS: Mapping[str, Scorer] = {"first_character": _first_character, "same_text": _same_text}


def settled(question: TaskQuestion, right: str) -> TaskQuestion:
    """Return a question with the right answer that the run told, unless it has one of its own."""
    return replace(question, right=right) if question.right is None else question


def answered(clip: str, number: int, question: TaskQuestion, text: str) -> Answered:
    """Return the record of an answer to question ``number`` about a clip, judged by the question's scorer.

    A question that is not :func:`settled` is judged as if no answer were the right one.
    """
    right = question.right or ""
    verdict = SCORERS[question.scorer](text, right)
    return Answered(clip, number, question.template, question.group, right, verdict.given, verdict.correct, text)
