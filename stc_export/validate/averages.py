"""What a benchmark itself reports where that is not the share of right answers: means over its kinds of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stc_export.validate.types import Answered

#: ``questions``: the share of right answers. ``tasks``: mean of the shares of the kinds of questions.
#: ``groups``: mean of the groups, each the mean of the shares of its kinds of questions.
Rule = Literal["questions", "tasks", "groups"]


@dataclass(frozen=True)
class Share:
    """A part of a benchmark's figure.

    Attributes:
        name: Kind or group of questions.
        value: Its share of right answers, or the mean of such.
        n: Questions behind it.
    """

    name: str
    value: float
    n: int


@dataclass(frozen=True)
class Official:
    """The figure that the benchmark reports.

    Attributes:
        rule: How it is made.
        value: The figure, from 0 to 1.
        parts: What it is the mean of, and what those are means of.
    """

    rule: Rule
    value: float
    parts: tuple[Share, ...]


def official_score(rule: Rule, answers: Sequence[Answered]) -> Official | None:
    """Return a benchmark's own figure, or ``None`` where it is the share of right answers.

    Args:
        rule: How the benchmark sums up.
        answers: At least one. A kind or group without any is left out of the mean.
    """
    return _RULES[rule](answers)


def _plain(_: Sequence[Answered]) -> None:
    return None


def _tasks(answers: Sequence[Answered]) -> Official:
    parts = _shares(answers)
    return Official("tasks", _mean(parts), parts)


def _groups(answers: Sequence[Answered]) -> Official:
    groups, parts = list[Share](), list[Share]()
    for name in dict.fromkeys(answer.group for answer in answers):
        own = [answer for answer in answers if answer.group == name]
        tasks = _shares(own)
        groups.append(Share(name, _mean(tasks), len(own)))
        parts += [groups[-1], *tasks]
    return Official("groups", _mean(groups), tuple(parts))


def _shares(answers: Sequence[Answered]) -> tuple[Share, ...]:
    kinds = dict.fromkeys(answer.template for answer in answers)
    right = {kind: [answer.correct for answer in answers if answer.template == kind] for kind in kinds}
    return tuple(Share(kind, sum(own) / len(own), len(own)) for kind, own in right.items())


def _mean(parts: Sequence[Share]) -> float:
    return sum(part.value for part in parts) / len(parts)


_RULES: Mapping[Rule, Callable[[Sequence[Answered]], Official | None]] = {
    "questions": _plain,
    "tasks": _tasks,
    "groups": _groups,
}
