"""From the text of an answer to right or wrong; what is expected was worked out by hand from the published scorers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.validate.letters import find_letter
from stc_export.validate.scorers import SCORERS

CASES = [
    ("first_character", "B", "B", "B", True),
    ("first_character", " \nB.", "B", "B", True),
    ("first_character", "A", "B", "A", False),
    ("first_character", "b", "B", "b", False),
    ("first_character", "The answer is B", "B", "T", False),
    ("whole", " B\n", "B", "B", True),
    ("whole", "B.", "B", "B.", False),
    ("letter", "(B) a cup", "B", "B", True),
    ("letter", "The answer is B.", "B", "B", True),
    ("letter", "A man with option C", "C", "C", True),
    ("letter", "A man", "A", "", False),
    ("letter_or_guess", "E", "E", "E", True),
    ("in_brackets", "B) a cup", "B", "B", True),
    ("in_brackets", "(B) a cup", "B", "B", True),
    ("in_brackets", "B", "B", "B", True),
    ("in_brackets", "B.", "B", "B.", False),
    ("in_brackets_or_first", " B.", "B", "B", True),
    ("in_brackets_or_first", "so (C) it is", "C", "C", True),
    ("videomme", "The best answer is B", "B", "B", True),
    ("videomme", "Best option: C", "C", "B", False),  # the published list has no comma there
    ("videomme", "none", "B", "", False),
    ("mvbench", "(B) a cup", "B", "B", True),
    ("mvbench", "B", "B", "B", True),
    ("mvbench", "B. a cup", "B", "B", True),
    ("mvbench", "B)\nbecause (A)", "B", "B", True),
    ("mvbench", "A) a cup", "B", "A", False),
    ("mvbench", "(", "B", "", False),  # passes the published one, being a part of "(b)"
    ("ovo_bench", "B", "B", "B", True),
    ("ovo_bench", "A, not B", "B", "B", True),  # somewhere in the text is enough
    ("ovo_bench", "C. a cup", "B", "C", False),
    ("ovo_bench", "It is 1 or 2", "12", "12", True),  # all digits are read as one number
    ("ovo_bench", "3", "12", "3", False),
    ("ovo_bench", "Yes, it does", "Yes", "Yes", True),
    ("ovo_bench", "N", "No", "No", True),
    ("ovo_bench", "n", "No", "", False),
    ("ovo_bench", "Yes", "No", "Yes", False),
    ("prefix", "B. a cup", "B", "B", True),
    ("prefix", "A, not B", "B", "A", False),
    ("prefix", "12 times", "12", "12", True),
    ("prefix", "No.", "No", "No", True),
    ("streamforest", "(b).", "B", "B", True),
    ("streamforest", "B. a cup", "B", "B. A CUP", False),
    ("streamforest", "It is 1 or 2", "12", "", False),
    ("streamforest", "12 times", "12", "12", True),
    ("streamforest", "No, it is not", "No", "No", True),
]


@pytest.mark.parametrize(("scorer", "text", "right", "given_", "correct"), CASES)
def test_scorer_judges_as_published(scorer: str, text: str, right: str, given_: str, correct: bool) -> None:
    verdict = SCORERS[scorer](text, right)
    assert (verdict.given, verdict.correct) == (given_, correct)


@pytest.mark.parametrize("scorer", sorted(set(SCORERS) - {"letter_or_guess"}))
@pytest.mark.parametrize("right", ["A", "12", "Yes", "No"])
@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_answer_is_wrong(scorer: str, right: str, text: str) -> None:
    verdict = SCORERS[scorer](text, right)
    assert (verdict.given.strip(), verdict.correct) == ("", False)


@pytest.mark.parametrize("scorer", SCORERS)
@given(text=st.text(max_size=40), right=st.sampled_from(["A", "E", "0", "12", "Yes", "No"]))
def test_any_text_has_one_verdict(scorer: str, text: str, right: str) -> None:
    verdict = SCORERS[scorer](text, right)
    assert verdict == SCORERS[scorer](text, right)
    assert verdict.correct == (verdict.given == right) or scorer == "mvbench"


def test_a_guess_is_one_of_five_letters_and_spread_over_texts() -> None:
    guesses = [SCORERS["letter_or_guess"](f"no idea {n}", "A").given for n in range(500)]
    assert {letter: guesses.count(letter) > 60 for letter in "ABCDE"} == dict.fromkeys("ABCDE", True)


@given(st.sampled_from("ABCDEFGH"), st.sampled_from(["{}", "({})", "{}.", "{}:", "Answer: {}", "the option is ({})."]))
def test_find_letter_reads_the_usual_forms(letter: str, form: str) -> None:
    assert find_letter(form.format(letter)) == letter
