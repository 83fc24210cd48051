"""What can be answered without looking: the questions must not give themselves away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stc_export.validate.demo import quiz_clip
from stc_export.validate.scorers import answered
from stc_export.validate.types import Answered
from stc_export.world.questions import LETTERS, Question
from stc_export.world.splits import Quiz


def blind_prior(seen: Sequence[Quiz], asked: Sequence[Quiz]) -> list[Answered]:
    """Answer from text alone: the option that was most often right when it was offered for the same question.

    Args:
        seen: Questions with answers, to learn from.
        asked: Questions to answer.
    """
    offered, right = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for question in (question for quiz in seen for question in quiz.questions):
        offered.update((question.text, option) for option in question.options)
        right[question.text, question.options[question.right]] += 1

    def best(question: Question) -> str:
        shares = [right[question.text, o] / max(offered[question.text, o], 1) for o in question.options]
        return LETTERS[shares.index(max(shares))]

    return [
        answered(quiz.clip.name, place, task_question, best(question))
        for quiz in asked
        for place, (question, task_question) in enumerate(zip(quiz.questions, quiz_clip(quiz).questions, strict=True))
    ]
