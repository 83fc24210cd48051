"""The generated world as a task: clips are streamed, questions are asked at their times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from stc_export.spec.policy import Policy
from stc_export.spec.progress import Progress
from stc_export.spec.report import AnswerPiece, FrameReport
from stc_export.validate.baselines import answered
from stc_export.validate.types import Answered, ClipOutcome, Outcome, StageTimes, Work, total_work
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
    model = Model.open(bundle, backend)
    clips: list[ClipOutcome] = []
    with StreamSession(model, policy) as session, progress.stage("clips", len(quizzes), "clips") as advance:
        for quiz in quizzes:
            clips.append(watch_quiz(session, quiz))
            advance(1)
    return Outcome(tuple(answer for clip in clips for answer in clip.answers), total_work(clip.work for clip in clips))


def watch_quiz(session: StreamSession, quiz: Quiz) -> ClipOutcome:
    """Stream one clip from the start of a session and ask its questions.

    Args:
        session: Any session; it is reset first.
        quiz: Clip with its questions.
    """
    session.reset()
    frames: list[FrameReport] = []
    asked: list[tuple[AnswerPiece, ...]] = []
    answers: list[Answered] = []
    for number, frame in enumerate(Renderer(quiz.clip).frames()):
        frames.append(session.push(frame, number / quiz.clip.fps))
        for place, question in enumerate(quiz.questions):
            if question.frame == number:
                asked.append(tuple(session.ask(question.prompt, max_tokens=_ANSWER_TOKENS)))
                answers.append(answered(quiz, place, "".join(piece.text for piece in asked[-1])))
    work = _work(frames, session.manifest.dims.vision.tokens)
    return ClipOutcome(quiz.clip.name, tuple(answers), work, _times(frames, asked))


def _times(frames: Sequence[FrameReport], asked: Iterable[tuple[AnswerPiece, ...]]) -> StageTimes:
    encoded = [report for report in frames if report.mode != "skip"]
    tokens = [[piece for piece in pieces if piece.token >= 0] for pieces in asked]
    return StageTimes(
        frame=_ms(r.gate_ms + r.vit_ms + r.pruner_ms + r.prefill_ms for r in frames),
        gate=_ms(r.gate_ms for r in frames),
        vit_full=_ms(r.vit_ms for r in frames if r.mode == "full"),
        vit_selective=_ms(r.vit_ms for r in frames if r.mode == "selective"),
        pruner=_ms(r.pruner_ms for r in encoded),
        prefill=_ms(r.prefill_ms for r in encoded if r.kept_tokens),
        decode=_ms(piece.step_ms for pieces in tokens for piece in pieces[1:]),
        first_token=_ms(pieces[0].elapsed_ms for pieces in tokens if pieces),
    )


def _ms(samples: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(sample, 3) for sample in samples)


def _work(reports: Sequence[FrameReport], vit_tokens: int) -> Work:
    return Work(
        frames=len(reports),
        full=sum(r.mode == "full" for r in reports),
        selective=sum(r.mode == "selective" for r in reports),
        vit_tokens=vit_tokens * len(reports),
        vit_recomputed=sum(r.recomputed for r in reports),
        visual_tokens=sum(r.visual_tokens for r in reports),
        kept_tokens=sum(r.kept_tokens for r in reports),
    )
