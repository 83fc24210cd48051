"""The generated world as a task: its clips are rendered, and questions are asked at their frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.spec.policy import Policy
from stc_export.spec.progress import Progress
from stc_export.validate.types import ClipOutcome, Outcome, TaskClip, TaskQuestion, total_work
from stc_export.validate.watch import watch_clip
from stc_export.world.questions import Question
from stc_export.world.render import Renderer
from stc_export.world.scene import Clip
from stc_export.world.splits import Quiz
from stc_runtime.backends.base import Backend
from stc_runtime.model import Model
from stc_runtime.session import StreamSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Tokens of an answer that are read; the letter is the first one.
_ANSWER_TOKENS = 2


@dataclass(frozen=True)
class Rendered:
    """The frames of a clip of the world."""

    clip: Clip

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield frames, uint8 [H, W, 3], at the times of the clip's frame rate."""
        for number, frame in enumerate(Renderer(self.clip).frames()):
            yield frame, number / self.clip.fps


def quiz_clip(quiz: Quiz) -> TaskClip:
    """Return a clip of the world with its questions as any task has them."""
    return TaskClip(quiz.clip.name, Rendered(quiz.clip), tuple(_question(quiz.clip, one) for one in quiz.questions))


def _question(clip: Clip, question: Question) -> TaskQuestion:
    return TaskQuestion(
        template=question.template,
        group=question.group,
        at_s=question.frame / clip.fps,
        prompt=question.prompt,
        right=question.letter,
        scorer="first_character",
        max_tokens=_ANSWER_TOKENS,
    )


def run_quizzes(
    bundle: Path, policy: Policy, quizzes: Sequence[Quiz], progress: Progress, backend: Backend | None = None
) -> Outcome:
    """Stream each clip through a bundle and ask its questions.

    Args:
        bundle: Directory of the bundle.
        policy: Settings of the streams.
        quizzes: Clips with their questions.
        progress: Receiver of progress.
        backend: What executes the graphs; by default ONNX Runtime on the CPU.

    Raises:
        StcError: The bundle cannot be used, or not with this policy.
    """
    model = Model.open(bundle, backend)
    clips: list[ClipOutcome] = []
    with StreamSession(model, policy) as session, progress.stage("clips", len(quizzes), "clips") as advance:
        for quiz in quizzes:
            clips.append(watch_clip(session, quiz_clip(quiz)))
            advance(1)
    return Outcome(tuple(answer for clip in clips for answer in clip.answers), total_work(clip.work for clip in clips))
