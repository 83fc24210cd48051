"""A clip is streamed through a session and its questions are asked at their times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stc_export.spec.errors import FrameError, QuestionError, VideoError
from stc_export.spec.report import AnswerPiece, FrameReport
from stc_export.validate.scorers import answered
from stc_export.validate.session import Session
from stc_export.validate.types import Answered, ClipOutcome, StageTimes, TaskClip, TaskQuestion, Work


def watch_clip(session: Session, clip: TaskClip) -> ClipOutcome:
    """Stream one clip from the start of a session and ask its questions.

    A question is asked once the next frame is later than its time. One whose time is before the first frame is asked
    after that frame, since without any there is nothing to ask about. What is wrong with this clip alone, such as a
    video that cannot be decoded, becomes the outcome's ``failure``: hours of others must not be lost for it.

    Args:
        session: Any session; it is reset first.
        clip: Clip with its questions in order of time.

    Raises:
        StcError: The session cannot go on.
    """
    try:
        return _watch(session, clip)
    except (VideoError, FrameError, QuestionError) as error:
        return ClipOutcome(clip.name, (), _work((), 0), _times((), ()), failure=error.problem)


def _watch(session: Session, clip: TaskClip) -> ClipOutcome:
    session.reset()
    asking = _Asking(session, clip)
    frames: list[FrameReport] = []
    for frame, seconds in clip.footage.frames():
        if frames:
            asking.ask_before(seconds)
        frames.append(session.push(frame, seconds))
    asking.ask_all()
    work = _work(frames, session.manifest.dims.vision.tokens)
    return ClipOutcome(clip.name, tuple(asking.answers), work, _times(frames, asking.pieces))


class _Asking:
    """The questions of one clip, asked one after the other."""

    def __init__(self, session: Session, clip: TaskClip) -> None:
        self._session = session
        self._clip = clip
        self.pieces: list[tuple[AnswerPiece, ...]] = []
        self.answers: list[Answered] = []

    def ask_before(self, seconds: float) -> None:
        """Ask what is to be asked before a frame of this time."""
        while self._waiting and self._waiting[0].at_s < seconds:
            self._ask(self._waiting[0])

    def ask_all(self) -> None:
        """Ask what is left."""
        while self._waiting:
            self._ask(self._waiting[0])

    @property
    def _waiting(self) -> tuple[TaskQuestion, ...]:
        return self._clip.questions[len(self.answers) :]

    def _ask(self, question: TaskQuestion) -> None:
        self.pieces.append(tuple(self._session.ask(question.prompt, max_tokens=question.max_tokens)))
        text = "".join(piece.text for piece in self.pieces[-1])
        self.answers.append(answered(self._clip.name, len(self.answers), question, text))


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
