"""``run``: play a video through a bundle and answer questions at their times."""

from __future__ import annotations

import importlib.util
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_engines.opening import open_backend
from stc_export.pipeline.output_file import check_output_file
from stc_export.pipeline.picture import token_picture
from stc_export.pipeline.samples import SampleKeeper
from stc_export.pipeline.tally import Tally
from stc_export.pipeline.types import Answer, Question, RunMemory, RunRequest, RunResult
from stc_export.spec.errors import MissingDependencyError
from stc_export.spec.files import write_file
from stc_export.spec.progress import Progress
from stc_export.spec.report import CameraReport
from stc_runtime.camera import Camera, CameraOptions
from stc_runtime.sampling import TopP
from stc_runtime.session import StreamSession
from stc_runtime.video import VideoReader, read_frames

OnPiece = Callable[[Question, float, str], None]
Frame = NDArray[np.uint8]
#: Frames in a picture of tokens.
_PICTURED = 6


def run(request: RunRequest, progress: Progress, on_piece: OnPiece) -> RunResult:
    """Stream a video and answer the questions.

    A question is asked before the first frame that is later than its time, and after the first frame in any case.

    Args:
        request: What to run.
        progress: Receiver of progress.
        on_piece: Called with question, time of the stream and text for each piece of an answer.

    Raises:
        StcError: Bundle, video, policy, a question or the picture's path cannot be used, or the target cannot run here.
    """
    if request.picture is not None:
        _check_picture(request.picture)
    sampling = TopP(request.top_p, request.temperature, request.seed) if request.top_p > 0 else None
    with open_session(request) as session, open_video(request, progress) as video:
        for question in request.questions:
            session.check_question(question.text)  # now, and not after an hour of video
        stream = _Stream(session, request, sampling, on_piece)
        with progress.stage("frames", None, "frames") as advance:
            for frame, time_s in video:
                stream.frame(frame, time_s)
                advance(1)
        stream.finish()
        _note_damage(video, progress)
        if request.picture is not None and stream.samples is not None and stream.tally.frames.total:
            write_file(token_picture(stream.samples.choose(_PICTURED), session.manifest.dims.vision), request.picture)
            progress.note(f"picture: {request.picture}")
        return replace(_result(request, session, stream), camera=_camera_report(video))


def _check_picture(out: Path) -> None:
    check_output_file("--picture", out, ".png")
    if importlib.util.find_spec("PIL") is None:
        raise MissingDependencyError("--picture needs the Python package Pillow.", "Run pip install pillow.")


def open_session(request: RunRequest) -> StreamSession:
    """Open the bundle of a request on the backend of its target.

    Raises:
        BundleError: The bundle cannot be used.
        DeviceError: Its target cannot run on this machine.
    """
    backend = open_backend(request.bundle, request.threads)
    return StreamSession.open(request.bundle, request.policy, backend)


def open_video(request: RunRequest, progress: Progress) -> VideoReader | Camera:
    """Open what a request watches.

    Raises:
        VideoError: It cannot be read.
    """
    if request.away_s is None:
        return read_frames(request.video, request.fps, 0.0, request.until_s, request.silence_s)
    options = CameraOptions(request.away_s, request.silence_s, request.until_s)
    return Camera(request.video, request.fps, options, progress.note)


def _camera_report(video: VideoReader | Camera) -> CameraReport | None:
    return video.report if isinstance(video, Camera) else None


class _Stream:
    """A session with the questions that are still to be asked, earliest first."""

    def __init__(self, session: StreamSession, request: RunRequest, sampling: TopP | None, on_piece: OnPiece) -> None:
        self.tally = Tally()
        self.answers: list[Answer] = []
        self.samples = None if request.picture is None else SampleKeeper()
        self._session, self._request, self._sampling, self._on_piece = session, request, sampling, on_piece
        timed = sorted((q for q in request.questions if q.at_s is not None), key=lambda q: q.at_s or 0.0)
        self._timed = timed
        self._last = [q for q in request.questions if q.at_s is None]
        self._now_s = 0.0

    def frame(self, frame: Frame, time_s: float) -> None:
        if self.tally.frames.total:
            self._ask_until(time_s)
        report = self._session.push(frame, time_s)
        if self.samples is not None:
            self.samples.see(frame, report)
        self.tally.frame(report)
        self._now_s = time_s

    def finish(self) -> None:
        for question in (*self._timed, *self._last):
            self._ask(question, self._now_s)
        self._timed, self._last = [], []

    def _ask_until(self, time_s: float) -> None:
        while self._timed and (self._timed[0].at_s or 0.0) < time_s:
            question = self._timed.pop(0)
            self._ask(question, question.at_s or 0.0)

    def _ask(self, question: Question, at_s: float) -> None:
        text, tokens, first_ms = "", 0, 0.0
        for piece in self._session.ask(question.text, max_tokens=self._request.max_tokens, sampling=self._sampling):
            if piece.token >= 0:
                tokens += 1
                first_ms = first_ms or piece.elapsed_ms
                if tokens > 1:
                    self.tally.decode.add(piece.step_ms)
            text += piece.text
            self._on_piece(question, at_s, piece.text)
        self.answers.append(Answer(question.text, at_s, text, round(first_ms, 3), tokens))


def _note_damage(video: VideoReader | Camera, progress: Progress) -> None:
    damage = video.damage
    if damage.found:
        progress.note(
            f"the video is damaged: {damage.errors} parts did not decode, {damage.missing_s:.1f} s missing at the end"
        )


def _result(request: RunRequest, session: StreamSession, stream: _Stream) -> RunResult:
    memory = session.memory_use
    return RunResult(
        answers=tuple(stream.answers),
        frames=stream.tally.frames,
        tokens=stream.tally.tokens,
        latency_ms=stream.tally.latencies,
        memory_bytes=RunMemory(peak_rss_bytes(), memory.feature_cache, memory.kv),
        bundle=str(request.bundle),
        target=session.manifest.target,
        policy=session.policy,
        trained=session.manifest.model.trained,
    )


def peak_rss_bytes() -> int:
    """Return the largest resident size that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
