"""The form of question that MVBench brought up and MLVU and ReKV took over."""

from __future__ import annotations

from collections.abc import Sequence

#: Published code starts the answer with this. A session cannot be told how to begin, so it ends the question here.
BEST_OPTION = "\nOnly give the best option.\nBest option: ("


def lettered_question(question: str, choices: Sequence[str]) -> str:
    """Return a question with its choices as ``(A) ...``, one per line."""
    lines = [f"({chr(ord('A') + place)}) {choice}" for place, choice in enumerate(choices)]
    return "\n".join([f"Question: {question}", "Options:", *lines])
