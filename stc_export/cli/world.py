"""``python -m stc_export.world``: look at a clip of the world, and check the frozen test set."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stc_export.cli.app import put_together, refuse_no_command
from stc_export.cli.options import JsonFlag, check_least
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.text import facts, table
from stc_export.spec.errors import ParityError, UsageError
from stc_export.world import clip_file, frozen, splits
from stc_export.world.questions import GROUPS, TEMPLATES
from stc_export.world.script import write_clip

PROGRAM = "python -m stc_export.world"
CLIP_EXAMPLE = f"{PROGRAM} clip train/17 --out clip-17"
TEST_SET_EXAMPLE = f"{PROGRAM} test-set"
SHORTEST_S, LONGEST_S = 6, 3600

_SPLITS = (splits.TRAIN, splits.VALIDATION, splits.TEST)
_NAME = re.compile(rf"(?:{'|'.join(_SPLITS)})/(?:0|[1-9][0-9]{{0,8}})")


@dataclass(frozen=True)
class ClipResult:
    """What ``clip`` wrote, and where."""

    out: Path
    quiz: clip_file.WrittenQuiz


@dataclass(frozen=True)
class TemplateCount:
    """Questions of one template in the test set."""

    template: str
    group: str
    questions: int


@dataclass(frozen=True)
class SetResult:
    """The test set as generated now, beside the committed one.

    Attributes:
        sha256: Of what was generated.
        committed_sha256: What it should be.
        clips: How many.
        questions: How many.
        templates: Counts in the order of the templates.
        differing: Names of clips that differ from the committed ones.
    """

    sha256: str
    committed_sha256: str
    clips: int
    questions: int
    templates: tuple[TemplateCount, ...]
    differing: tuple[str, ...]


def clip(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="SPLIT/NUMBER, where SPLIT is train, validation or test.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for clip.mkv and questions.json.")],
    seconds: Annotated[
        int | None, typer.Option("--seconds", metavar="N", help="Length, 6 to 3600; the name decides if not given.")
    ] = None,
    questions: Annotated[int, typer.Option("--questions", metavar="N", help="Most questions about it.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a clip that was written earlier.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a clip as lossless video, with questions about it."""
    _check_name(name)
    check_least("--seconds", seconds, SHORTEST_S)
    if seconds is not None and seconds > LONGEST_S:
        raise UsageError(f"--seconds is {seconds}, expected at most {LONGEST_S}.", "Lower --seconds.")
    check_least("--questions", questions, 0)
    with reserved_stdout(as_json=as_json):
        quiz = splits.ask_about(write_clip(name, seconds), questions)
        result = ClipResult(out, clip_file.write_quiz(quiz, out, overwrite=overwrite))
    emit(result, clip_text(result), as_json=as_json)


def clip_text(result: ClipResult) -> str:
    """Return what was written, for people."""
    quiz = result.quiz
    rows = [(f"{q.at_s:.2f} s", q.group, q.prompt.replace("\n", " "), q.right) for q in quiz.questions]
    summary = facts(
        [
            ("clip", f"{quiz.clip}: {quiz.seconds:g} s, {quiz.frames} frames, {quiz.fps} per second"),
            ("video", str(result.out / clip_file.VIDEO_NAME)),
            ("questions", f"{result.out / clip_file.QUESTIONS_NAME} ({len(rows)})"),
        ]
    )
    return summary + ("\n\n" + table(("asked at", "group", "question", "right"), rows, right=(0,)) if rows else "")


def check_test_set(*, as_json: JsonFlag = False) -> None:
    """Generate the test set, count its questions and compare it with the committed digests."""
    with reserved_stdout(as_json=as_json):
        result = _examine()
    emit(result, set_text(result), as_json=as_json)
    if result.differing or result.sha256 != result.committed_sha256:
        raise ParityError(
            f"The test set differs from the committed one in {len(result.differing)} clips.",
            "Undo the change to the world, or commit new digests and measure every model again.",
        )


def _examine() -> SetResult:
    quizzes, expected = splits.test_set(), frozen.committed()
    found = frozen.freeze(quizzes)
    counts = Counter(question.template for quiz in quizzes for question in quiz.questions)
    return SetResult(
        sha256=found.sha256,
        committed_sha256=expected.sha256,
        clips=len(quizzes),
        questions=counts.total(),
        templates=tuple(TemplateCount(t.name, t.group, counts[t.name]) for t in TEMPLATES),
        differing=frozen.differing(found, expected),
    )


def set_text(result: SetResult) -> str:
    """Return counts and digests for people."""
    templates = table(
        ("template", "group", "questions"),
        [(row.template, row.group, str(row.questions)) for row in result.templates],
        right=(2,),
    )
    totals = {group: sum(row.questions for row in result.templates if row.group == group) for group in GROUPS}
    summary = facts(
        [
            *((group, f"{count} questions") for group, count in totals.items()),
            ("all", f"{result.questions} questions about {result.clips} clips"),
            ("sha256", result.sha256),
            ("committed", result.committed_sha256),
        ]
    )
    return f"{templates}\n\n{summary}"


def make_app() -> typer.Typer:
    """Return the program."""
    commands = (("clip", clip, CLIP_EXAMPLE), ("test-set", check_test_set, TEST_SET_EXAMPLE))
    return put_together(PROGRAM, _program, commands)


def _program(context: typer.Context) -> None:
    """Look at the generated world from which the demo model learns."""
    refuse_no_command(context)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f'"{name}" is not the name of a clip, expected SPLIT/NUMBER.',
            f"Write for example train/17; SPLIT is one of {', '.join(_SPLITS)}.",
        )
