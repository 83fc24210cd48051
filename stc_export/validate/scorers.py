"""From the text of an answer to right or wrong, by name: published scorers of one benchmark disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


#: ``first_character``: the first character that is no white space is the letter.
SCORERS: Mapping[str, Scorer] = {"first_character": _first_character}


def answered(clip: str, number: int, question: TaskQuestion, text: str) -> Answered:
    """Return the record of an answer to question ``number`` about a clip, judged by the question's scorer."""
    verdict = SCORERS[question.scorer](text, question.right)
    return Answered(
        clip, number, question.template, question.group, question.right, verdict.given, verdict.correct, text
    )
