"""From the text of an answer to right or wrong."""

from __future__ import annotations

import pytest

from stc_export.validate.scorers import SCORERS


@pytest.mark.parametrize(
    ("text", "given", "correct"),
    [("B", "B", True), (" \nB.", "B", True), ("A", "A", False), ("b", "b", False), ("", "", False), (" ", "", False)],
)
def test_first_character_is_the_letter(text: str, given: str, correct: bool) -> None:
    verdict = SCORERS["first_character"](text, "B")
    assert (verdict.given, verdict.correct) == (given, correct)
