"""``validate``: settings of a policy against no compression, on the questions of a task."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stc_engines.detect import count_cores, read_cpu_model
from stc_export.pipeline.bench_record import command_line, describe_bundle, load_average, read_environment
from stc_export.pipeline.validate_html import html_report
from stc_export.pipeline.validate_original import find_original
from stc_export.pipeline.validate_summary import compare_engines, score
from stc_export.pipeline.validate_types import ValidateRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import MissingDependencyError, UsageError
from stc_export.spec.files import write_file
from stc_export.spec.manifest import Manifest, read_manifest
from stc_export.spec.progress import Progress
from stc_export.validate.engines import ENGINES, Original
from stc_export.validate.folder import RESULTS, Plan, Rows, open_rows
from stc_export.validate.parallel import Part, run_parts, share_out
from stc_export.validate.rows import SettingClip
from stc_export.validate.scorers import answered
from stc_export.validate.sweep import make_settings, parse_axis
from stc_export.validate.tasks import Task, find_task
from stc_export.validate.twins import baselines, twins, with_originals
from stc_export.validate.types import ClipOutcome, Setting, TaskClip

SCHEMA = "stc.validate/1"
SUMMARY, REPORT = "summary.json", "report.html"
#: Clips by name of the setting and name of the clip.
Done = dict[tuple[str, str], ClipOutcome]


@dataclass(frozen=True)
class _Job:
    """Everything that is known before a clip is streamed."""

    request: ValidateRequest
    plan: Plan
    task: Task
    clips: tuple[TaskClip, ...]
    manifest: Manifest
    jobs: int
    original: Original | None


def validate(request: ValidateRequest, progress: Progress) -> ValidateResult:
    """Answer the questions of a task under every setting, and compare each with the baseline.

    Every clip is written as it is complete. A second call with the same request does what is missing.

    Args:
        request: What to validate.
        progress: Receiver of progress.

    Raises:
        StcError: Bundle, task, sweep, policy or folder cannot be used, or the target cannot run here.
    """
    load_before = load_average()
    job = _prepare(request, progress)
    with open_rows(request.report, job.plan) as rows:
        done = _run(job, rows, progress)
    result = _result(job, done, load_before)
    write_file(codec.to_json(result).encode(), request.report / SUMMARY)
    write_file(html_report(result).encode(), request.report / REPORT)
    progress.note(f"written: {request.report / SUMMARY}, {request.report / REPORT}")
    return result


def _prepare(request: ValidateRequest, progress: Progress) -> _Job:
    if importlib.util.find_spec("scipy") is None:  # needed at the end only, which is hours later
        raise MissingDependencyError(
            "validate needs the Python package scipy.", 'Run pip install "stc-export[validate]".'
        )
    axes = [parse_axis(text) for text in request.sweep]
    task = find_task(request.task)
    manifest = read_manifest(request.bundle)
    settings = make_settings(request.policy or manifest.policy, axes)
    found = find_original(request, manifest)
    original = found.original if found else None
    settings = with_originals(settings) if found else settings
    _check_count(settings, request.max_runs)
    _check_settings(request.bundle, original, settings, progress)
    with progress.stage("questions"):
        clips = task.read(request.limit)
    digest = describe_bundle(request.bundle, manifest).manifest_sha256
    plan = Plan("stc.validate-plan/1", digest, task.name, len(clips), read_cpu_model(), settings)
    plan = replace(plan, original=found.plan if found else None)
    return _Job(request, plan, task, clips, manifest, request.jobs or count_cores(), original)


def _check_settings(bundle: Path, original: Original | None, settings: Sequence[Setting], progress: Progress) -> None:
    """Open a session for every setting, so that what does not fit is told before hours have passed."""
    with progress.stage("settings", len(settings), "settings") as advance:
        for engine in dict.fromkeys(setting.engine for setting in settings):
            start = ENGINES[engine](bundle, original)
            for setting in settings:
                if setting.engine == engine:
                    start(setting.policy).close()
                    advance(1)


def _check_count(settings: Sequence[Setting], most: int) -> None:
    if len(settings) > most:
        raise UsageError(
            f"--sweep asks for {len(settings)} runs with the baseline, at most {most} are allowed.",
            f"Sweep fewer values, or allow more with --max-runs {len(settings)}.",
        )


def _run(job: _Job, rows: Rows, progress: Progress) -> Done:
    """Do what is missing; each clip is in the file before it counts."""
    plan, folder = job.plan, job.request.report
    done = {(one.setting, one.outcome.clip): one.outcome for one in rows.done}
    _check_rows(job, rows.done)
    total = len(plan.settings) * len(job.clips)
    begun = f", {len(done)} of {total} done before" if done else ""
    progress.note(f"{len(plan.settings)} runs of {len(job.clips)} clips, {job.jobs} at a time{begun}")
    missing = [
        Part(
            job.task,
            setting,
            tuple(clip for clip in job.clips if (setting.name, clip.name) not in done),
            job.original,
        )
        for setting in plan.settings
    ]
    with progress.stage("clips", total - len(done), "clips") as advance:

        def keep(one: SettingClip) -> None:
            rows.append(one)
            done[one.setting, one.outcome.clip] = one.outcome
            advance(1)

        run_parts(job.request.bundle, share_out(missing, job.jobs), job.jobs, keep)
    progress.note(f"answers: {folder / RESULTS}")
    return done


def _check_rows(job: _Job, rows: Sequence[SettingClip]) -> None:
    """Rows that are there must be those of this plan, each clip once, with its questions."""
    clips = {clip.name: clip for clip in job.clips}
    open_ones = {(setting.name, clip) for setting in job.plan.settings for clip in clips}
    for row in rows:
        key = row.setting, row.outcome.clip
        if key not in open_ones or not _answers_fit(row.outcome, clips[row.outcome.clip]):
            raise UsageError(
                f'"{job.request.report / RESULTS}" has rows of "{key[1]}" under "{key[0]}" that do not belong there.',
                "Name another folder with --report.",
            )
        open_ones.remove(key)


def _answers_fit(outcome: ClipOutcome, clip: TaskClip) -> bool:
    if len(outcome.answers) != len(clip.questions):
        return False
    pairs = enumerate(zip(clip.questions, outcome.answers, strict=True))
    return outcome.answers == tuple(answered(clip.name, place, q, a.text) for place, (q, a) in pairs)


def _result(job: _Job, done: Done, load_before: float | None) -> ValidateResult:
    plan = job.plan
    clips = {setting.name: [done[setting.name, clip.name] for clip in job.clips] for setting in plan.settings}
    first = baselines(plan.settings)
    scores = [
        score(setting, clips[setting.name], None if setting == other else clips[other.name])
        for setting in plan.settings
        for other in [first[setting.engine]]
    ]
    return ValidateResult(
        schema=SCHEMA,
        command=command_line(),
        bundle=describe_bundle(job.request.bundle, job.manifest),
        target=job.manifest.target,
        task=plan.task,
        clips=len(job.clips),
        questions=sum(len(clip.questions) for clip in job.clips),
        jobs=job.jobs,
        settings=tuple(scores),
        environment=read_environment(1, load_before),
        original=plan.original,
        conversions=tuple(
            compare_engines(own, clips[own.name], clips[other.name]) for own, other in twins(plan.settings)
        ),
    )
