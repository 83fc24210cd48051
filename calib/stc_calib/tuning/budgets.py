"""What a user asks of a tuned policy: ``accuracy=0.99``, or ``latency_ms=40``.

A budget is met when the data says so with some certainty, not when it happens to come out: a share counts with the
lower end of its one-sided Wilson interval of 75 %, so that the luckiest of many candidates is not taken for the best.
More certainty would need more video than most have: where the uncompressed model wavers, every policy loses an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stc_export.spec.errors import UsageError, nearest

#: Standard errors below an estimate: three quarters of a normal distribution are above.
_ERRORS = 0.6744897501960817
#: Least questions where the budget itself does not ask for more: one of them is then two points.
_LEAST_QUESTIONS = 50


@dataclass(frozen=True)
class Score:
    """What a candidate gave on some clips.

    Attributes:
        questions: Questions that the uncompressed model answered right. Without labels these are all.
        kept: How many of them the candidate answered right, too.
        cost: Multiply-accumulates of ViT and prefill, as a share of those of the uncompressed model.
        frame_ms: Mean time of a frame.
        divergence: Mean Kullback-Leibler divergence of the answers' first tokens, in nats; 0 where it is not known.
    """

    questions: int
    kept: int
    cost: float
    frame_ms: float
    divergence: float = 0.0

    @property
    def share(self) -> float:
        """Share of the right answers that stayed right; 1 where there was none."""
        return self.kept / self.questions if self.questions else 1.0


#: Sorts candidates: the first is the best.
Rank = tuple[float, ...]


@dataclass(frozen=True)
class BudgetKind:
    """A quantity that a budget is about.

    Attributes:
        example: How it is written.
        expected: The values that it can have, in words.
        allows: Whether it can have a value.
        least_questions: (value) -> questions that are needed before anything can meet it.
        rank: Order among candidates that meet it.
        met: (score, value) -> whether a candidate meets it.
        possible: (score, value, questions in all) -> whether it still can, when the other questions are asked, too.
        miss: How far from any budget a candidate is.
        stricter: (value) -> one that asks for a little more.
    """

    example: str
    expected: str
    allows: Callable[[float], bool]
    least_questions: Callable[[float], int]
    rank: Callable[[Score], Rank]
    met: Callable[[Score, float], bool]
    possible: Callable[[Score, float, int], bool]
    miss: Callable[[Score], float]
    stricter: Callable[[float], float]


@dataclass(frozen=True)
class Budget:
    """A budget with its value.

    Attributes:
        name: As in :data:`BUDGETS`.
        value: Share, or milliseconds.
    """

    name: str
    value: float

    @property
    def least_questions(self) -> int:
        """Questions that are needed before anything can meet it."""
        return BUDGETS[self.name].least_questions(self.value)

    def rank(self, score: Score) -> Rank:
        """Return what candidates are sorted by, the best first."""
        return BUDGETS[self.name].rank(score)

    def met(self, score: Score) -> bool:
        """Whether a candidate meets the budget."""
        return BUDGETS[self.name].met(score, self.value)

    def possible(self, score: Score, questions: int) -> bool:
        """Whether it can meet the budget once it was asked ``questions`` in all."""
        return BUDGETS[self.name].possible(score, self.value, questions)

    @property
    def stricter(self) -> Budget:
        """One that asks for a little more, for what just missed this one."""
        return Budget(self.name, BUDGETS[self.name].stricter(self.value))

    @property
    def text(self) -> str:
        """As it is written: ``accuracy=0.99``."""
        return f"{self.name}={self.value:g}"

    def miss(self, score: Score) -> float:
        """Return how far from the budget a candidate is; only the order means something."""
        return BUDGETS[self.name].miss(score)


def lower_end(kept: int, questions: int, errors: float = _ERRORS) -> float:
    """Return the lower end of Wilson's interval of a share, so many standard errors wide on each side."""
    share, square = kept / questions, errors**2 / questions
    middle = share + square / 2
    spread = errors * math.sqrt(share * (1 - share) / questions + square / (4 * questions))
    return (middle - spread) / (1 + square)


def _least_for_share(share: float) -> int:
    """With fewer, one lost answer alone would be more than the budget allows."""
    return max(math.ceil(1 / (1 - share) - 1e-9), _LEAST_QUESTIONS)  # 1 / 0.01 is a little above 100 in binary


def _accuracy_met(score: Score, value: float) -> bool:
    return lower_end(score.kept, score.questions) >= value


def _accuracy_possible(score: Score, value: float, questions: int) -> bool:
    lost = score.questions - score.kept
    return lower_end(questions - lost, questions) >= value


#: The budgets by name. For accuracy, the cheapest candidate in multiply-accumulates: those are the same in each run.
#: For a time, what was measured here; of the candidates that are fast enough, the one that changes the answers least.
BUDGETS: Mapping[str, BudgetKind] = {
    "accuracy": BudgetKind(
        example="accuracy=0.99",
        expected="a share of the uncompressed model's right answers, at least 0.5 and below 1",
        allows=lambda value: 0.5 <= value < 1.0,
        least_questions=_least_for_share,
        rank=lambda score: (score.cost, -score.share, score.divergence),
        met=_accuracy_met,
        possible=_accuracy_possible,
        miss=lambda score: -score.share,
        stricter=lambda value: (1.0 + value) / 2,
    ),
    "latency_ms": BudgetKind(
        example="latency_ms=40",
        expected="a mean time of a frame in milliseconds, above 0",
        allows=lambda value: value > 0,
        least_questions=lambda _value: _LEAST_QUESTIONS,
        rank=lambda score: (-score.share, score.divergence, score.cost),
        met=lambda score, value: score.frame_ms <= value,
        possible=lambda score, value, _questions: score.frame_ms <= value,
        miss=lambda score: score.frame_ms,
        stricter=lambda value: 0.9 * value,
    ),
}


def parse_budget(text: str) -> Budget:
    """Read ``NAME=VALUE``.

    Raises:
        UsageError: There is no such budget, or it cannot have this value.
    """
    name, equals, rest = (part.strip() for part in text.partition("="))
    if not equals:
        examples = " or ".join(kind.example for kind in BUDGETS.values())
        raise UsageError(f'--budget is "{text}", expected a name and a value.', f"Write {examples}.")
    if name not in BUDGETS:
        raise UsageError(f'--budget names "{name}".', nearest(name, BUDGETS))
    kind, value = BUDGETS[name], _number(rest)
    if not math.isfinite(value) or not kind.allows(value):
        raise UsageError(
            f'--budget {name} is "{rest}", expected {kind.expected}.', f"Write for example {kind.example}."
        )
    return Budget(name, value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
