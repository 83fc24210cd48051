"""A clip and its questions as files: lossless video and JSON."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.spec import codec
from stc_export.spec.errors import MissingDependencyError, UsageError
from stc_export.spec.files import new_directory
from stc_export.world.render import Renderer
from stc_export.world.scene import SIDE, Clip

if TYPE_CHECKING:
    from stc_export.world.questions import Question
    from stc_export.world.splits import Quiz

VIDEO_NAME = "clip.mkv"
QUESTIONS_NAME = "questions.json"
#: Matroska counts time in milliseconds.
_TICKS_PER_S = 1000


@dataclass(frozen=True)
class WrittenQuestion:
    """A question as it stands in the file.

    Attributes:
        template: Name of its template.
        group: ``realtime``, ``backward`` or ``detail``.
        at_s: Second of the clip at which it is asked: the frame that begins then, or within the millisecond before,
            is the last one that counts.
        question: Its text alone.
        options: Four answers.
        right: Letter of the right one.
        prompt: Text and options as they are put to a model.
    """

    template: str
    group: str
    at_s: float
    question: str
    options: tuple[str, ...]
    right: str
    prompt: str


@dataclass(frozen=True)
class WrittenQuiz:
    """What the file of questions holds.

    Attributes:
        clip: Name of the clip.
        fps: Frames per second.
        frames: How many there are.
        seconds: Length.
        questions: In order of time.
    """

    clip: str
    fps: int
    frames: int
    seconds: float
    questions: tuple[WrittenQuestion, ...]


def write_quiz(quiz: Quiz, out: Path, *, overwrite: bool = False) -> WrittenQuiz:
    """Write the video and the questions into a new directory, which appears when it is complete.

    Args:
        quiz: Clip and questions.
        out: The directory.
        overwrite: Replace a directory that an earlier call wrote.

    Returns:
        What the file of questions holds.

    Raises:
        UsageError: ``out`` exists and may not be replaced, or the directory around it does not exist.
        MissingDependencyError: PyAV is not installed.
        OSError: It cannot be written.
    """
    _check_place(out, overwrite=overwrite)
    written = _written(quiz)
    with new_directory(out) as partial:
        _check_place(out, overwrite=overwrite)  # new_directory may have brought it back
        _write_video(quiz.clip, partial / VIDEO_NAME)
        (partial / QUESTIONS_NAME).write_text(codec.to_json(written), encoding="utf-8")
    return written


def _written(quiz: Quiz) -> WrittenQuiz:
    clip = quiz.clip
    return WrittenQuiz(clip.name, clip.fps, clip.frames, clip.seconds, tuple(map(_written_question, quiz.questions)))


def _written_question(question: Question) -> WrittenQuestion:
    return WrittenQuestion(
        template=question.template,
        group=question.group,
        at_s=question.at_s,
        question=question.text,
        options=question.options,
        right=question.letter,
        prompt=question.prompt,
    )


def _check_place(out: Path, *, overwrite: bool) -> None:
    if not out.absolute().parent.is_dir():
        raise UsageError(
            f'"{out}" cannot be written: "{out.absolute().parent}" is not an existing directory.',
            "Create that directory first, or name another place.",
        )
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir() or {path.name for path in out.iterdir()} - {VIDEO_NAME, QUESTIONS_NAME}:
        raise UsageError(
            f'"{out}" exists and is not a directory with a clip and nothing else.', "Name a directory that is new."
        )
    if not overwrite:
        raise UsageError(f'"{out}" exists.', "Name another directory, or replace it with --overwrite.")


def _write_video(clip: Clip, path: Path) -> None:
    """Write FFV1 in RGB: decoding gives the same bytes, and the same clip gives the same file.

    A frame is stamped with its time rounded down, so that at a question's time its frame has always come.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            'Writing a video needs the package "av", which is not installed.', 'Run pip install "stc-export[video]".'
        ) from error
    with av.open(f"file:{path}", "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=clip.fps, options={"flags": "+bitexact"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "bgr0"
        stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(Renderer(clip).frames()):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = number * _TICKS_PER_S // clip.fps, Fraction(1, _TICKS_PER_S)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
