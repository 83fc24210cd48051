"""The test set as it was committed: names of clips, numbers of questions and digests of everything in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stc_export.spec import codec
from stc_export.world.splits import Quiz, digest

#: ``codec.to_json(freeze(test_set()))``. It changes only when the world does, on purpose and with new measurements.
FILE = Path(__file__).parent / "test_set.json"


@dataclass(frozen=True)
class FrozenQuiz:
    """One clip of the test set.

    Attributes:
        name: Of the clip.
        questions: How many are asked about it.
        sha256: Of its frames and questions, see :func:`stc_export.world.splits.digest`.
    """

    name: str
    questions: int
    sha256: str


@dataclass(frozen=True)
class FrozenSet:
    """The whole test set.

    Attributes:
        sha256: Of the digests of the clips, written one after the other in hexadecimal.
        clips: In order.
    """

    sha256: str
    clips: tuple[FrozenQuiz, ...]


def committed() -> FrozenSet:
    """Return the test set that was committed."""
    return codec.from_json(FrozenSet, FILE.read_text(encoding="utf-8"))


def freeze(quizzes: tuple[Quiz, ...]) -> FrozenSet:
    """Return the digests of quizzes. Draws every frame: 50 ms per clip."""
    clips = tuple(FrozenQuiz(quiz.clip.name, len(quiz.questions), digest(quiz)) for quiz in quizzes)
    return FrozenSet(hashlib.sha256("".join(clip.sha256 for clip in clips).encode()).hexdigest(), clips)


def differing(found: FrozenSet, expected: FrozenSet) -> tuple[str, ...]:
    """Return the names of the clips that are missing, new or not the same."""
    return tuple(sorted({clip.name for clip in {*found.clips} ^ {*expected.clips}}))
