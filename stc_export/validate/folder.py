"""The folder of a validation: what is being validated, and the rows that are done. A second run continues the first."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from stc_export.spec import codec
from stc_export.spec.errors import UsageError
from stc_export.spec.files import read_text, write_file
from stc_export.validate.rows import ReadRows, SettingClip, read_rows, write_rows
from stc_export.validate.scorers import answered, settled
from stc_export.validate.types import ClipOutcome, Setting, TaskClip

PLAN, RESULTS = "plan.json", "results.jsonl"
_MOST_PLAN_BYTES = 16 * 1024 * 1024
#: Names of settings that a message lists.
_SHOWN = 12


@dataclass(frozen=True)
class OriginalPlan:
    """The original model that settings run in beside the bundle.

    Attributes:
        model: What the user calls it.
        sha256: Digest of the digests of its config and weights.
        attention: How attention is computed.
        torch: Version of PyTorch.
        transformers: Version of transformers.
    """

    model: str
    sha256: str
    attention: str
    torch: str
    transformers: str


@dataclass(frozen=True)
class BesidePlan:
    """Another bundle that settings run in.

    Attributes:
        label: What its settings are called by.
        sha256: SHA-256 of its manifest.
    """

    label: str
    sha256: str


@dataclass(frozen=True)
class TuningPlan:
    """What rows of a search for a policy depend on beside all else.

    Attributes:
        frames: Most frames of a clip.
        threads: Threads of the backend; ``None``: its own choice.
    """

    frames: int
    threads: int | None


@dataclass(frozen=True)
class Plan:
    """What the rows of a folder have in common.

    Attributes:
        schema: ``stc.validate-plan/1``.
        bundle: SHA-256 of the bundle's manifest, which holds the digests of all its files.
        task: Name of the task.
        clips: How many of its clips.
        cpu: Name of the CPU, since times of two machines do not mix.
        settings: All settings, the baseline first.
        annotations: SHA-256 of the files that it reads; "" without any.
        fps: Frames per second that are taken of its videos.
        scorer: Name of the scorer.
        asked: Questions that every clip is asked; empty where each has its own.
        original: The original model; ``None`` when only the bundle runs.
        tuning: How clips are watched when a policy is searched for; ``None`` in a validation.
        beside: Other bundles that every setting runs in.
    """

    schema: Literal["stc.validate-plan/1"]
    bundle: str
    task: str
    clips: int
    cpu: str
    settings: tuple[Setting, ...]
    annotations: str = ""
    fps: float | None = None
    scorer: str = "first_character"
    asked: tuple[str, ...] = ()
    original: OriginalPlan | None = None
    tuning: TuningPlan | None = None
    beside: tuple[BesidePlan, ...] = ()


@dataclass(frozen=True)
class Rows:
    """An open file of results.

    Attributes:
        done: Complete clips that it held.
        append: Adds one, and returns when the system has it.
    """

    done: tuple[SettingClip, ...]
    append: Callable[[SettingClip], None]


@contextmanager
def open_rows(folder: Path, plan: Plan, flag: str = "--report") -> Iterator[Rows]:
    """Open the results of a folder for this process alone, making the folder where it is missing.

    Args:
        folder: The folder.
        plan: What is to be done.
        flag: The flag that names another folder.

    Raises:
        UsageError: The folder cannot be used, holds results of something else, or another process is writing there.
    """
    _check_folder(folder, flag)
    folder.mkdir(exist_ok=True)
    with (folder / RESULTS).open("a+b") as file:
        _lock(file, folder)
        file.seek(0)
        data = file.read()
        _check_plan(folder, plan, flag, fresh=not data)
        found = _complete(data, folder, flag)
        file.truncate(found.size_bytes)
        yield Rows(found.clips, lambda done: _append(file, done))


def _check_folder(folder: Path, flag: str) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f'{flag} puts results into "{folder}", which is a file.', "Name another place for the results."
        )
    if not folder.absolute().parent.is_dir():
        raise UsageError(f'The directory "{folder.parent}" of {flag} is missing.', "Create it first.")


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
    except BlockingIOError as error:
        raise UsageError(
            f'Another process is writing to "{folder}".', "Wait until it has ended, or name another place."
        ) from error


def _check_plan(folder: Path, plan: Plan, flag: str, *, fresh: bool) -> None:
    path = folder / PLAN
    if not path.exists() and fresh:
        write_file(codec.to_json(plan).encode(), path)
        return
    try:
        found = codec.from_json(Plan, read_text(path, _MOST_PLAN_BYTES))
    except (OSError, ValueError) as error:
        raise _unusable(folder, flag, f"{PLAN}: {error}") from error
    if found != plan:
        raise UsageError(
            f'"{folder}" holds other results: {"; ".join(_differences(found, plan))}.',
            f"Name another place with {flag}, repeat the command that began these, or remove the folder.",
        )


def _differences(found: Plan, plan: Plan) -> list[str]:
    names = ("bundle", "task", "clips", "cpu", "annotations", "fps", "scorer", "asked", "original", "tuning", "beside")
    told = [
        f"{name} {old} there, {new} here"
        for name in names
        if (old := getattr(found, name)) != (new := getattr(plan, name))
    ]
    there, here = ([setting.name for setting in one.settings] for one in (found, plan))
    if there != here:
        told.append(f"settings {_listed(there)} there, {_listed(here)} here")
    elif found.settings != plan.settings:
        changed = next(a.name for a, b in zip(found.settings, plan.settings, strict=True) if a != b)
        told.append(f'the policy of setting "{changed}" differs')
    return told


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return " | ".join(names[:_SHOWN]) + more


def _complete(data: bytes, folder: Path, flag: str) -> ReadRows:
    try:
        return read_rows(data)
    except ValueError as error:
        raise _unusable(folder, flag, f"{RESULTS}, {error}") from error


def _unusable(folder: Path, flag: str, reason: str) -> UsageError:
    return UsageError(f'The results in "{folder}" cannot be continued: {reason}.', f"Name another place with {flag}.")


def check_rows(folder: Path, plan: Plan, clips: Sequence[TaskClip], rows: Sequence[SettingClip]) -> None:
    """Check that rows are those of a plan, each clip once, with its questions.

    Raises:
        UsageError: They are not.
    """
    known = {clip.name: clip for clip in clips}
    open_ones = {(setting.name, clip) for setting in plan.settings for clip in known}
    for row in rows:
        key = row.setting, row.outcome.clip
        if key not in open_ones or not _answers_fit(row.outcome, known[row.outcome.clip]):
            raise UsageError(
                f'"{folder / RESULTS}" has rows of "{key[1]}" under "{key[0]}" that do not belong there.',
                "Name another place for the results, or remove the folder.",
            )
        open_ones.remove(key)


def _answers_fit(outcome: ClipOutcome, clip: TaskClip) -> bool:
    if len(outcome.answers) != len(clip.questions):
        return False
    pairs = enumerate(zip(clip.questions, outcome.answers, strict=True))
    return outcome.answers == tuple(
        answered(clip.name, place, settled(question, answer.right), answer.text) for place, (question, answer) in pairs
    )


def _append(file: BinaryIO, done: SettingClip) -> None:
    file.write(write_rows(done))
    file.flush()
    os.fsync(file.fileno())
