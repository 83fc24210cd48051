"""``validate --rescore``: the answers of a finished validation, judged by another scorer. No bundle is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from stc_export.pipeline.bench.record import command_line
from stc_export.pipeline.validate.html import html_report
from stc_export.pipeline.validate.plots import draw_plots
from stc_export.pipeline.validate.run import REPORT, SUMMARY
from stc_export.pipeline.validate.summary import compare_bundles, compare_engines, score_settings
from stc_export.pipeline.validate.types import RescoreRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import UsageError
from stc_export.spec.files import read_bytes, read_text, write_file
from stc_export.spec.progress import Progress
from stc_export.validate.folder import PLAN, RESULTS, Plan
from stc_export.validate.rows import SettingClip, read_rows
from stc_export.validate.scorers import judged_again
from stc_export.validate.tasks import find_scorer, find_task
from stc_export.validate.types import ClipOutcome

T = TypeVar("T")

#: Answers and times of the largest benchmark under dozens of settings are far below.
_MOST_BYTES = 8 * 1024**3


def rescore(request: RescoreRequest, progress: Progress) -> ValidateResult:
    """Judge the answers of a folder again. What is there stays; the new summary and report lie beside.

    Args:
        request: Folder and scorer.
        progress: Receiver of progress.

    Raises:
        UsageError: The folder has no finished validation, or a damaged one.
        UnsupportedError: Its task does not have the scorer.
    """
    plan = _read(Plan, request.report / PLAN)
    before = _read(ValidateResult, request.report / SUMMARY)
    task = find_task(plan.task)
    scorer = find_scorer(task, request.scorer)
    paired = zip(plan.settings, _paired(plan, request.report), strict=True)
    clips = {setting.name: _rescored(own, scorer) for setting, own in paired}
    one = clips[plan.settings[0].name]
    result = replace(
        before,
        command=command_line(),
        scorer=scorer,
        clips=len(one),
        questions=sum(len(clip.answers) for clip in one),
        settings=score_settings(plan.settings, clips, task.rule),
        conversions=compare_engines(plan.settings, clips),
        changes=compare_bundles(plan.settings, clips),
    )
    _write(result, request.report, progress)
    return result


def _write(result: ValidateResult, folder: Path, progress: Progress) -> None:
    summary, report = (folder / _named(name, result.scorer) for name in (SUMMARY, REPORT))
    write_file(codec.to_json(result).encode(), summary)
    write_file(html_report(result, draw_plots(result)).encode(), report)
    progress.note(f"written: {summary}, {report}")


def _named(name: str, scorer: str) -> str:
    """Return ``summary-letter.json`` for ``summary.json``."""
    return f"{Path(name).stem}-{scorer}{Path(name).suffix}"


def _paired(plan: Plan, folder: Path) -> list[list[ClipOutcome]]:
    """Return, per setting, the clips that are complete under all of them, in the order of the baseline's rows."""
    rows = _rows(folder / RESULTS)
    own = [{row.outcome.clip: row.outcome for row in rows if row.setting == setting.name} for setting in plan.settings]
    names = [name for name in own[0] if all(name in clips for clips in own)] if own else []
    if not any(own[0][name].answers for name in names):
        raise _unusable(folder / RESULTS, "no clip is complete under all settings")
    return [[clips[name] for name in names] for clips in own]


def _rows(path: Path) -> Sequence[SettingClip]:
    try:
        return read_rows(read_bytes(path, _MOST_BYTES)).clips
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error


def _read(kind: type[T], path: Path) -> T:
    try:
        return codec.from_json(kind, read_text(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error


def _rescored(clips: Sequence[ClipOutcome], scorer: str) -> list[ClipOutcome]:
    return [replace(clip, answers=tuple(judged_again(answer, scorer) for answer in clip.answers)) for clip in clips]


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f'"{path}" cannot be scored again: {reason}.', "Name a folder in which validate has come to its end."
    )
