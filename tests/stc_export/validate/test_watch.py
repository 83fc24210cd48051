"""When questions are asked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stc_export.spec.errors import FrameError, QuestionError, StcError, VideoError
from stc_export.validate.types import TaskClip, TaskQuestion
from stc_export.validate.watch import watch_clip
from stc_runtime.session import StreamSession

TIMES = (1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Noise:
    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        draws = np.random.default_rng(0)
        for seconds in TIMES:
            yield draws.integers(0, 256, (40, 40, 3), np.uint8), seconds


class Watched(StreamSession):
    """Notes how many frames it had been given at each question."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.asked_after: list[int] = []

    def ask(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        self.asked_after.append(self._pushed)
        return super().ask(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at_s", "frames"), [(0.0, 1), (1.0, 1), (1.5, 1), (2.0, 2), (2.99, 2), (3.0, 3), (9.0, 3), (math.inf, 3)]
)
def test_a_question_is_asked_after_the_last_frame_that_is_not_later(
    tiny_bundle: Path, at_s: float, frames: int
) -> None:
    question = TaskQuestion("kind", "group", at_s, "What is it?", "A", "first_character", 2)
    clip = TaskClip("clip", Noise(), (question, question))
    with Watched.open(tiny_bundle) as session:
        assert isinstance(session, Watched)
        outcome = watch_clip(session, clip)
        assert session.asked_after == [frames, frames]
    assert [answer.number for answer in outcome.answers] == [0, 1]
    assert outcome.work.frames == len(outcome.times.frame) == len(TIMES)


@dataclass(frozen=True)
class Broken:
    error: StcError

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        yield from Noise().frames()
        raise self.error


@pytest.mark.parametrize("kind", [VideoError, FrameError, QuestionError])
def test_what_is_wrong_with_one_clip_is_its_outcome_and_the_next_is_watched(
    tiny_bundle: Path, kind: type[StcError]
) -> None:
    question = TaskQuestion("kind", "group", 1.0, "What is it?", "A", "first_character", 2)
    with StreamSession.open(tiny_bundle) as session:
        broken = watch_clip(session, TaskClip("broken", Broken(kind("It ends.", "Copy it.")), (question,)))
        assert (broken.clip, broken.answers, broken.failure, broken.work.frames) == ("broken", (), "It ends.", 0)
        assert watch_clip(session, TaskClip("clip", Noise(), (question,))).failure == ""


def test_what_is_wrong_with_the_session_is_raised(tiny_bundle: Path) -> None:
    with StreamSession.open(tiny_bundle) as session:
        session.close()
        with pytest.raises(StcError, match="closed"):
            watch_clip(session, TaskClip("clip", Noise(), ()))
