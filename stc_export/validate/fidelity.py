"""Task ``fidelity``: a user's own videos without labels. What the uncompressed model says counts as right.

That is a stand-in for accuracy: an answer that differs may be the better one, and one that agrees may be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stc_export.spec.errors import UsageError, VideoError
from stc_export.spec.files import file_digest
from stc_export.spec.policy import Policy, named_policies
from stc_export.validate.footage import VideoFile
from stc_export.validate.paired import PairedStream
from stc_export.validate.scorers import answered, settled
from stc_export.validate.types import ClipOutcome, TaskClip, TaskClips, TaskOptions, TaskQuestion
from stc_export.validate.watch import watch_clip
from stc_runtime.session import StreamSession

#: Asked of every video unless ``--ask`` names others: what is there, what happens, where, and how many.
QUESTIONS = (
    "What is shown in the video?",
    "What is happening right now?",
    "Where does it take place?",
    "How many people are there?",
)
#: Every question is asked after each third of a video's frames, so that forgetting shows too.
MOMENTS = 3
#: Frames per second of video, as ``run`` takes them by default.
FPS = 1.0
_ANSWER_TOKENS = 32
_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})


def read_films(options: TaskOptions) -> TaskClips:
    """Return a clip for a video, or for each video of a folder in the order of their names.

    Every video is decoded once to find its moments, so that one that cannot be read is told before hours have passed.

    Args:
        options: What was asked for; with data, a rate and questions.

    Raises:
        UsageError: There is no video, or a question is empty.
        VideoError: A video cannot be read.
        MissingDependencyError: The package that reads videos is not installed.
    """
    films = find_films(options)
    clips = tuple(_clip(film, options.ask) for film in films)
    return TaskClips(clips, (), films_digest(films), options.fps or FPS, options.ask)


def find_films(options: TaskOptions) -> tuple[VideoFile, ...]:
    """Return the videos that were named, in the order of their names.

    Raises:
        UsageError: There is no video, or a question is empty.
    """
    if not all(question.strip() for question in options.ask):
        raise UsageError("--ask is an empty question.", 'Write for example --ask "What is shown in the video?".')
    paths, fps = _videos(options.data or Path())[: options.limit], options.fps or FPS
    return tuple(VideoFile(path, fps, most_missing=1.0) for path in paths)  # one that was cut off, as far as it goes


def films_digest(films: Sequence[VideoFile]) -> str:
    """Return a digest of the names and contents of videos."""
    digests = "".join(f"{film.path.name} {file_digest(film.path)}\n" for film in films)
    return hashlib.sha256(digests.encode()).hexdigest()


def _videos(data: Path) -> list[Path]:
    if not data.is_dir():
        return [data]
    found = sorted(path for path in data.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise UsageError(
            f'--data is "{data}", a folder without any video in it.',
            f"Name a video, or a folder with files that end in {', '.join(sorted(_SUFFIXES))}.",
        )
    return found


def film_times(film: VideoFile) -> list[float]:
    """Return the times of a video's frames in seconds.

    Raises:
        VideoError: It cannot be read, or has fewer frames than moments to ask at.
    """
    times = [seconds for _, seconds in film.frames()]
    if len(times) < MOMENTS:
        raise VideoError(
            f'Video "{film.path}" has {len(times)} frames at {film.fps:g} per second, expected at least {MOMENTS}.',
            "Raise --fps, or use a longer video.",
        )
    return times


def _clip(film: VideoFile, questions: Sequence[str]) -> TaskClip:
    return TaskClip(film.path.name, film, ask_in_thirds(questions, film_times(film)))


def ask_in_thirds(questions: Sequence[str], times: Sequence[float]) -> tuple[TaskQuestion, ...]:
    """Return every question after each third of the frames that have these times, at least :data:`MOMENTS`."""
    return tuple(_question(text, place, times) for place in range(1, MOMENTS + 1) for text in questions)


def _question(text: str, place: int, times: Sequence[float]) -> TaskQuestion:
    return TaskQuestion(
        template=text,
        group=f"after {place} of {MOMENTS}",
        at_s=times[len(times) * place // MOMENTS - 1],
        prompt=text,
        right=None,
        scorer="same_text",
        max_tokens=_ANSWER_TOKENS,
    )


def watch_beside_off(session: StreamSession, clip: TaskClip, start: Callable[[Policy], Any]) -> ClipOutcome:
    """Stream a clip through a session and beside it through an uncompressed one with the same memory.

    The baseline itself is compared with a second stream of its own: what is not equal there is noise of the machine.

    Args:
        session: The stream that is validated; it is reset first.
        clip: A clip without right answers.
        start: Starts the uncompressed :class:`~stc_runtime.session.StreamSession`, of this bundle or of another one.

    Raises:
        StcError: A frame or a question cannot be taken, or memory does not hold both streams.
    """
    policy = replace(named_policies()["off"], memory=session.policy.memory)
    with start(policy) as dense:
        return watch_pair(PairedStream(session, dense), clip)


def watch_pair(pair: PairedStream, clip: TaskClip) -> ClipOutcome:
    """Stream a clip through two streams; what the uncompressed one says is right.

    Args:
        pair: The streams; they are reset first.
        clip: A clip without right answers.

    Raises:
        StcError: A stream cannot go on.
    """
    outcome = watch_clip(pair, clip)
    if outcome.failure:
        return outcome
    answers = tuple(
        answered(clip.name, answer.number, settled(clip.questions[answer.number], right), answer.text)
        for answer, right in zip(outcome.answers, pair.dense_answers, strict=True)
    )
    return replace(outcome, answers=answers, fidelity=pair.found)
