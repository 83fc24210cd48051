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
from stc_export.validate.types import Setting

PLAN, RESULTS = "plan.json", "results.jsonl"
_MOST_PLAN_BYTES = 16 * 1024 * 1024


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
def open_rows(folder: Path, plan: Plan) -> Iterator[Rows]:
    """Open the results of a folder for this process alone, making the folder where it is missing.

    Raises:
        UsageError: The folder cannot be used, holds results of something else, or another process is writing there.
    """
    _check_folder(folder)
    folder.mkdir(exist_ok=True)
    with (folder / RESULTS).open("a+b") as file:
        _lock(file, folder)
        file.seek(0)
        data = file.read()
        _check_plan(folder, plan, fresh=not data)
        found = _complete(data, folder)
        file.truncate(found.size_bytes)
        yield Rows(found.clips, lambda done: _append(file, done))


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f'--report is "{folder}", which is a file.', "Name a folder for the results.")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f'The directory "{folder.parent}" of --report is missing.', "Create it first.")


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
    except BlockingIOError as error:
        raise UsageError(
            f'Another validation is writing to "{folder}".', "Wait until it has ended, or name another folder."
        ) from error


def _check_plan(folder: Path, plan: Plan, *, fresh: bool) -> None:
    path = folder / PLAN
    if not path.exists() and fresh:
        write_file(codec.to_json(plan).encode(), path)
        return
    try:
        found = codec.from_json(Plan, read_text(path, _MOST_PLAN_BYTES))
    except (OSError, ValueError) as error:
        raise _unusable(folder, f"{PLAN}: {error}") from error
    if found != plan:
        raise UsageError(
            f'"{folder}" holds another validation: {"; ".join(_differences(found, plan))}.',
            "Name another folder with --report, or repeat the command that began this one.",
        )


def _differences(found: Plan, plan: Plan) -> list[str]:
    names = ("bundle", "task", "clips", "cpu", "annotations", "fps", "scorer", "asked", "original")
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
    return " | ".join(names)


def _complete(data: bytes, folder: Path) -> ReadRows:
    try:
        return read_rows(data)
    except ValueError as error:
        raise _unusable(folder, f"{RESULTS}, {error}") from error


def _unusable(folder: Path, reason: str) -> UsageError:
    return UsageError(f'The results in "{folder}" cannot be continued: {reason}.', "Name another folder with --report.")


def _append(file: BinaryIO, done: SettingClip) -> None:
    file.write(write_rows(done))
    file.flush()
    os.fsync(file.fileno())
