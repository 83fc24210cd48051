"""Guessers that see the text of a question and nothing of the video. They learn from questions with answers."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stc_export.world.questions import Question


class Rating(Protocol):
    """How likely an option is right; a guesser takes the option with the highest rating."""

    def __call__(self, question: Question, place: int) -> float: ...


def by_answer(known: Sequence[Question]) -> Rating:
    """How often the option was right for the same question, of the times that it was offered."""
    right = Counter((q.text, q.options[q.right]) for q in known)
    offered = Counter((q.text, option) for q in known for option in q.options)
    return lambda q, place: right[q.text, q.options[place]] / max(1, offered[q.text, q.options[place]])


def by_rivals(known: Sequence[Question]) -> Rating:
    """How often the option won against each of the other options that are present, for the same template."""
    won = Counter((q.template, q.options[q.right], o) for q in known for o in q.options if o != q.options[q.right])

    def rating(question: Question, place: int) -> float:
        me = question.options[place]
        odds = (
            (won[question.template, me, o] + 1) / (won[question.template, o, me] + 1)
            for o in question.options
            if o != me
        )
        return sum(map(math.log, odds))

    return rating


def by_whole_set(known: Sequence[Question]) -> Rating:
    """How often the option was right when exactly these four were offered, for the same template."""
    right = Counter((q.template, frozenset(q.options), q.options[q.right]) for q in known)
    return lambda q, place: right[q.template, frozenset(q.options), q.options[place]]


def by_letter(known: Sequence[Question]) -> Rating:
    """How often the letter was right, for the same template."""
    right = Counter((q.template, q.right) for q in known)
    return lambda q, place: right[q.template, place]


GUESSERS: dict[str, Callable[[Sequence[Question]], Rating]] = {
    "by_answer": by_answer,
    "by_rivals": by_rivals,
    "by_whole_set": by_whole_set,
    "by_letter": by_letter,
}


def accuracy(rating: Rating, questions: Iterable[Question]) -> float:
    """Expected share of right guesses; between options with the same rating the guess is even."""
    points = []
    for question in questions:
        ratings = [rating(question, place) for place in range(len(question.options))]
        best = [place for place, value in enumerate(ratings) if value == max(ratings)]
        points.append((question.right in best) / len(best))
    return sum(points) / len(points)
