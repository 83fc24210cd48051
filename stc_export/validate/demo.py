"""The generated world as a task: clips are streamed, questions are asked at their times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from stc_export.spec.policy import Policy
from stc_export.spec.progress import Progress
from stc_export.spec.report import FrameReport
from stc_export.validate.baselines import answered
from stc_export.validate.types import Answered, Outcome, Work
from stc_export.world.questions import Question
from stc_export.world.render import Renderer
from stc_export.world.splits import Quiz
from stc_runtime.backends.base import Backend
from stc_runtime.model import Model
from stc_runtime.session import StreamSession

#: Tokens of an answer that are read; the letter is the first one.
_ANSWER_TOKENS = 2


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
    answers: list[Answered] = []
    reports: list[FrameReport] = []
    model = Model.open(bundle, backend)
    with StreamSession(model, policy) as session, progress.stage("clips", len(quizzes), "clips") as advance:
        for quiz in quizzes:
            session.reset()
            _stream(session, quiz, answers, reports)
            advance(1)
    return Outcome(tuple(answers), _work(reports, model.manifest.dims.vision.tokens))


def _stream(session: StreamSession, quiz: Quiz, answers: list[Answered], reports: list[FrameReport]) -> None:
    for number, frame in enumerate(Renderer(quiz.clip).frames()):
        reports.append(session.push(frame, number / quiz.clip.fps))
        for place, question in enumerate(quiz.questions):
            if question.frame == number:
                answers.append(answered(quiz, place, _ask(session, question)))


def _ask(session: StreamSession, question: Question) -> str:
    text = "".join(piece.text for piece in session.ask(question.prompt, max_tokens=_ANSWER_TOKENS))
    return text.strip()[:1]


def _work(reports: Iterable[FrameReport], vit_tokens: int) -> Work:
    reports = list(reports)
    return Work(
        frames=len(reports),
        full=sum(r.mode == "full" for r in reports),
        selective=sum(r.mode == "selective" for r in reports),
        vit_tokens=vit_tokens * len(reports),
        vit_recomputed=sum(r.recomputed for r in reports),
        visual_tokens=sum(r.visual_tokens for r in reports),
        kept_tokens=sum(r.kept_tokens for r in reports),
    )
