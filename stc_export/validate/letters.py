"""The letter of an option in a free text."""

from __future__ import annotations

import re

#: A letter of an option is no part of a word, and an "A" before a small word is an article.
_LETTER = r"([A-H])(?![A-Za-z'])(?! [a-z])"
#: Ways to name an option, the clearest first.
_FORMS = (
    re.compile(r"^\W*" + _LETTER),  # "B", "(B) a cup", "B. a cup"
    re.compile(r"(?i:answer|option|choice)(?: is|:)?\W{0,3}" + _LETTER),
    re.compile(r"\(([A-H])\)"),
    re.compile(r"(?<![A-Za-z])([B-H])(?![A-Za-z'])"),
)


def find_letter(text: str) -> str:
    """Return the letter of the option that a text names, or "" if it names none.

    Args:
        text: An answer such as ``(B) a cup`` or ``The answer is B.``.
    """
    found = (form.search(text.strip()) for form in _FORMS)
    return next((match[1] for match in found if match), "")
