"""What is written of a search: the policy, what was tried, and how sure the choice is."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stc_calib.tuning.budgets import Budget
from stc_calib.tuning.search import Found, Trial
from stc_engines.detect import read_cpu_model, read_device
from stc_export.pipeline.bench.record import command_line
from stc_export.pipeline.calibrate.data import TuningClips
from stc_export.pipeline.calibrate.picture import draw_front
from stc_export.pipeline.calibrate.types import Place, TuneRequest
from stc_export.pipeline.doctor import installed_version
from stc_export.spec import codec
from stc_export.spec.files import write_file
from stc_export.spec.manifest import Manifest
from stc_export.spec.progress import Progress
from stc_export.spec.tuning import (
    SCHEMA,
    HeldOutPolicy,
    TriedPolicy,
    TuningData,
    TuningMachine,
    TuningRecord,
    manifest_digest,
)
from stc_export.validate.front import Tradeoff, on_front


@dataclass(frozen=True)
class Evidence:
    """What a search gave.

    Attributes:
        budget: What was asked for.
        found: How the search ended.
        chosen: What it chose, or what came nearest.
        questions: Questions of the search that count.
        held_out: Figures of the uncompressed model, the published policy and the chosen one on the clips that are held
            out; the chosen one may be one of the others.
    """

    budget: Budget
    found: Found
    chosen: Trial
    questions: int
    held_out: tuple[HeldOutPolicy, ...]


def make_record(request: TuneRequest, clips: TuningClips, evidence: Evidence, manifest: Manifest) -> TuningRecord:
    """Return what ``tuning.json`` says."""
    final = next(row for row in evidence.held_out if row.name == evidence.chosen.candidate.name)
    in_search = evidence.found.chosen is not None
    budget = evidence.budget
    met = in_search and HELD[budget.name](final, budget.value)
    return TuningRecord(
        schema=SCHEMA,
        command=command_line(),
        manifest_sha256=manifest_digest(request.bundle),
        target=manifest.target,
        budget=budget.name,
        value=budget.value,
        met=met,
        verdict=_verdict(evidence, in_search=in_search, met=met),
        chosen=evidence.chosen.candidate.name,
        policy=evidence.chosen.candidate.policy,
        data=_data(clips, evidence),
        tried=_tried(evidence.found.screened),
        confirmed=tuple(_row(trial, best=False) for trial in evidence.found.confirmed),
        held_out=evidence.held_out,
        machine=_machine(request.threads),
    )


#: Whether figures on held-out clips are within a budget. There the estimate itself counts: nothing was chosen by it.
HELD: Mapping[str, Callable[[HeldOutPolicy, float], bool]] = {
    "accuracy": lambda row, value: row.kept.value >= value,
    "latency_ms": lambda row, value: row.frame_ms <= value,
}


def _verdict(evidence: Evidence, *, in_search: bool, met: bool) -> str:
    asked = evidence.budget.text
    if not in_search:
        return f"{asked} is met by nothing that was tried; the nearest is shown"
    if not met:
        return (
            f"{asked} was met in the search, but not on the clips that were held out; --budget "
            f"{evidence.budget.stricter.text} leaves a margin, and no clip is watched twice for it"
        )
    return f"{asked} is met, in the search and on the clips that were held out"


def _data(clips: TuningClips, evidence: Evidence) -> TuningData:
    return TuningData(
        task=clips.task.name,
        sha256=clips.sha256,
        fps=clips.fps,
        asked=clips.asked,
        clips=len(clips.search),
        questions=evidence.questions,
        held_out_clips=len(clips.held_out),
        held_out_questions=evidence.held_out[0].questions,
    )


def _tried(screened: Sequence[Trial]) -> tuple[TriedPolicy, ...]:
    """Return the candidates; those on fewer clips, since time was up, are not compared for the front."""
    most = max(trial.clips for trial in screened)
    compared = [trial for trial in screened if trial.clips == most]
    best = on_front([Tradeoff(trial.score.cost, trial.score.share) for trial in compared])
    front = {trial.candidate.name for trial, is_best in zip(compared, best, strict=True) if is_best}
    return tuple(_row(trial, best=trial.candidate.name in front) for trial in screened)


def _row(trial: Trial, *, best: bool) -> TriedPolicy:
    found = trial.score
    return TriedPolicy(
        name=trial.candidate.name,
        clips=trial.clips,
        questions=found.questions,
        kept=found.kept,
        cost=found.cost,
        frame_ms=found.frame_ms,
        divergence=found.divergence,
        on_front=best,
    )


def _machine(threads: int | None) -> TuningMachine:
    return TuningMachine(
        cpu=read_cpu_model(),
        board=read_device().model,
        threads=threads,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        stc_export=installed_version("stc-export"),
    )


def write_tuning(record: TuningRecord, place: Place, progress: Progress) -> None:
    """Write the policy, the evidence and its picture; the policy last, so that it never stands without them."""
    write_file(draw_front(record), place.picture)
    write_file(codec.to_json(record).encode(), place.record)
    write_file(codec.to_json(record.policy).encode(), place.policy)
    progress.note(f"written: {place.policy}, {place.record}, {place.picture}")
