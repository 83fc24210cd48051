"""From the text of an answer to right or wrong, by name: published scorers of one benchmark disagree.

A scorer sees the text and the right answer and nothing else, so that answers on file can be scored again. One rule is
ours: but for ``letter_or_guess``, an empty answer is wrong, also where a published scorer passes it by accident.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from stc_export.validate.letters import find_letter
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
#: What kind of answer a question wants, seen from the right one: a letter, a number, ``Yes`` or ``No``.
Form = Literal["choice", "count", "yes_no"]

#: Video-MME's own list. Two commas are missing there, which joins four phrases to two that nobody writes; so ``Best
#: option: C`` gives B, the first letter of "Best". Kept, since published figures have it.
_VIDEOMME_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)


def _by(extract: Callable[[str], str]) -> Scorer:
    """Make a scorer that compares what it finds in the text with the right answer."""

    def score(text: str, right: str) -> Verdict:
        given = extract(text) if text.strip() else ""
        return Verdict(given, given == right and given != "")

    return score


def _by_form(rules: Mapping[Form, Scorer]) -> Scorer:
    """Make a scorer for a benchmark that asks for several kinds of answers."""

    def score(text: str, right: str) -> Verdict:
        return rules[_form(right)](text, right)

    return score


def _form(right: str) -> Form:
    if right in ("Yes", "No"):
        return "yes_no"
    return "count" if right.isdecimal() else "choice"


def _contains(text: str, right: str) -> Verdict:
    """OVO-Bench: the right answer is somewhere in the text, so a sentence that happens to have the letter passes."""
    return Verdict(right, correct=True) if right in text else Verdict(find_letter(text), correct=False)


def _begins(text: str, right: str) -> Verdict:
    given = text.strip()[: len(right)]
    return Verdict(given, given == right)


def _yes_no(text: str, right: str) -> Verdict:
    """OVO-Bench: the word in the text, or its first letter as the whole text."""
    said = {"Y": "Yes", "N": "No"}.get(text, text)
    given = right if right in said else next((word for word in ("Yes", "No") if word in said), "")
    return Verdict(given, given == right)


def _first_character(text: str) -> str:
    return text.strip()[:1]


def _whole(text: str) -> str:
    return text.strip()


def _same_text(text: str, right: str) -> Verdict:
    given = " ".join(text.split())
    return Verdict(given, given == " ".join(right.split()))


def _cleaned(text: str) -> str:
    return text.strip().strip("().,:; \n").upper()


def _digits(text: str) -> str:
    return "".join(re.findall(r"\d+", text))


def _only_number(text: str) -> str:
    numbers = re.findall(r"\d+", text)
    return numbers[0] if len(numbers) == 1 else ""


def _in_brackets(text: str) -> str:
    """MLVU's template: the character before the first closing bracket, else the whole text."""
    before, bracket, _ = text.partition(")")
    return before[-1:] if bracket else text


def _in_brackets_or_first(text: str) -> str:
    """ReKV: the same after white space is gone, else the first character."""
    before, bracket, _ = text.strip().partition(")")
    return before[-1:] if bracket else _first_character(text)


def _videomme(text: str) -> str:
    for phrase in _VIDEOMME_PHRASES:
        text = text.replace(phrase, "")
    found = re.search("[ABCD]", text)
    return found[0] if found else ""


def _mvbench(text: str, right: str) -> Verdict:
    """MVBench: the first word of the first line holds ``(letter)``, or is a part of it.

    MVBench makes the model go on after "(" and puts that before its answer; here it is added unless it was written.
    """
    line = text.strip().split("\n")[0].lower()
    word = f"({line.removeprefix('(')}".split(" ")[0]
    option = f"({right.lower()})"
    correct = bool(line.strip("(). ")) and (word.replace(".", "") in option or option in word)
    return Verdict(right if correct else _first_character(word[1:]).upper(), correct)


def _letter_or_guess(text: str, right: str) -> Verdict:
    """As lmms-eval on EgoSchema: what names no option counts as a guess; here the same text guesses the same."""
    guess = "ABCDE"[hashlib.sha256(text.encode()).digest()[0] % 5]
    given = find_letter(text) or guess
    return Verdict(given, given == right)


#: By name; docs/validate.md says what each does and which task has which.
SCORERS: Mapping[str, Scorer] = {
    "first_character": _by(_first_character),
    "whole": _by(_whole),
    "same_text": _same_text,
    "letter": _by(find_letter),
    "letter_or_guess": _letter_or_guess,
    "in_brackets": _by(_in_brackets),
    "in_brackets_or_first": _by(_in_brackets_or_first),
    "videomme": _by(_videomme),
    "mvbench": _mvbench,
    "ovo_bench": _by_form({"choice": _contains, "count": _by(_digits), "yes_no": _yes_no}),
    "prefix": _by_form({"choice": _begins, "count": _by(_digits), "yes_no": _begins}),
    "streamforest": _by_form({"choice": _by(_cleaned), "count": _by(_only_number), "yes_no": _yes_no}),
}


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


def judged_again(answer: Answered, scorer: str) -> Answered:
    """Return the record of an answer on file, judged by another scorer."""
    verdict = SCORERS[scorer](answer.text, answer.right)
    return replace(answer, given=verdict.given, correct=verdict.correct)
