"""``results.jsonl``: one line per setting and question, and after the questions of a clip one line for the clip.

A clip counts once its own line is there, so whatever a kill leaves behind is dropped by reading up to the last of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stc_export.spec import codec
from stc_export.validate.types import Answered, ClipFidelity, ClipOutcome, StageTimes, Work


@dataclass(frozen=True)
class QuestionRow:
    """One question under one setting; see :class:`stc_export.validate.types.Answered`."""

    kind: Literal["question"]
    setting: str
    clip: str
    number: int
    template: str
    group: str
    right: str
    given: str
    correct: bool
    text: str


@dataclass(frozen=True)
class ClipRow:
    """One clip under one setting; see :class:`stc_export.validate.types.ClipOutcome`."""

    kind: Literal["clip"]
    setting: str
    clip: str
    work: Work
    times: StageTimes
    peak_rss_bytes: int | None = None
    fidelity: ClipFidelity | None = None


@dataclass(frozen=True)
class SettingClip:
    """What one clip gave under the setting of this name."""

    setting: str
    outcome: ClipOutcome


@dataclass(frozen=True)
class ReadRows:
    """The complete clips of a file.

    Attributes:
        clips: In the order of the file.
        size_bytes: Length of the file up to the last of them.
    """

    clips: tuple[SettingClip, ...]
    size_bytes: int


_KINDS: Mapping[str, type[QuestionRow | ClipRow]] = {"question": QuestionRow, "clip": ClipRow}


def write_rows(done: SettingClip) -> bytes:
    """Return the lines of one clip under one setting."""
    clip = done.outcome
    rows: list[QuestionRow | ClipRow] = [
        QuestionRow(
            "question",
            done.setting,
            a.clip,
            a.number,
            a.template,
            a.group,
            a.right,
            a.given,
            a.correct,
            a.text,
        )
        for a in clip.answers
    ]
    rows.append(ClipRow("clip", done.setting, clip.clip, clip.work, clip.times, clip.peak_rss_bytes, clip.fidelity))
    return b"".join(json.dumps(asdict(row), allow_nan=False).encode() + b"\n" for row in rows)


def read_rows(data: bytes) -> ReadRows:
    """Read the complete clips of a file, leaving out what was being written when it ended.

    Raises:
        ValueError: A line before the end that was not written by :func:`write_rows`; the text names the line.
    """
    clips: list[SettingClip] = []
    waiting: list[QuestionRow] = []
    size = read = 0
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        read += len(line) + 1
        try:
            row = _read_row(line)
            if isinstance(row, QuestionRow):
                waiting.append(row)
                continue
            clips.append(_clip(row, waiting))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from error
        waiting, size = [], read
    return ReadRows(tuple(clips), size)


def _read_row(line: bytes) -> QuestionRow | ClipRow:
    data: Any = json.loads(line)
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError("it is neither a question nor a clip")
    return codec.from_plain(_KINDS[kind], data)


def _clip(row: ClipRow, waiting: list[QuestionRow]) -> SettingClip:
    if any((question.setting, question.clip) != (row.setting, row.clip) for question in waiting):
        raise ValueError(f'the clip "{row.clip}" follows questions about another')
    answers = (Answered(q.clip, q.number, q.template, q.group, q.right, q.given, q.correct, q.text) for q in waiting)
    outcome = ClipOutcome(
        row.clip, tuple(answers), row.work, row.times, peak_rss_bytes=row.peak_rss_bytes, fidelity=row.fidelity
    )
    return SettingClip(row.setting, outcome)
