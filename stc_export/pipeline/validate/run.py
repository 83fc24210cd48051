"""``validate``: settings of a policy against no compression, on the questions of a task."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stc_engines.detect import read_cpu_model
from stc_export.pipeline.bench.record import command_line, describe_bundle, load_average, read_environment
from stc_export.pipeline.validate.beside import Beside, find_beside, validated_bundles
from stc_export.pipeline.validate.frames import draw_frames
from stc_export.pipeline.validate.html import html_report
from stc_export.pipeline.validate.original import find_original
from stc_export.pipeline.validate.page import Picture
from stc_export.pipeline.validate.plots import draw_plots
from stc_export.pipeline.validate.summary import compare_bundles, compare_engines, score_settings
from stc_export.pipeline.validate.types import FailedClip, ValidateRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import MissingDependencyError, StcError, UsageError, VideoError
from stc_export.spec.files import write_file
from stc_export.spec.manifest import Manifest, read_manifest
from stc_export.spec.progress import Progress
from stc_export.validate.engines import ENGINES, Original
from stc_export.validate.folder import RESULTS, Plan, Rows, check_rows, open_rows
from stc_export.validate.parallel import Part, share_out
from stc_export.validate.rows import SettingClip
from stc_export.validate.sweep import make_settings, parse_axis
from stc_export.validate.tasks import Task, check_engines, find_scorer, find_task, read_task
from stc_export.validate.twins import with_originals, with_others
from stc_export.validate.types import ClipOutcome, Setting, TaskClip, TaskClips, TaskOptions
from stc_export.validate.workers import Workers, open_workers

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
    found: TaskClips
    manifest: Manifest
    original: Original | None
    beside: tuple[Beside, ...]

    @property
    def clips(self) -> tuple[TaskClip, ...]:
        """The clips of the task."""
        return self.found.clips

    @property
    def places(self) -> dict[str, Path]:
        """Directory of every bundle by its label."""
        return _places(self.request.bundle, self.beside)


@dataclass(frozen=True)
class _Ran:
    """What was watched, now or before, and what could not be."""

    done: Done
    failures: tuple[FailedClip, ...]


def validate(request: ValidateRequest, progress: Progress) -> ValidateResult:
    """Answer the questions of a task under every setting, and compare each with the baseline.

    Every clip is written as it is complete. A second call with the same request does what is missing.

    Args:
        request: What to validate.
        progress: Receiver of progress.

    Raises:
        StcError: Bundle, task, sweep, policy or folder cannot be used, or the target cannot run here.
        VideoError: Not one clip could be watched.
    """
    load_before = load_average()
    job = _prepare(request, progress)
    with open_workers(request.ray, request.jobs) as workers, open_rows(request.report, job.plan) as rows:
        ran = _run(job, rows, workers, progress)
    result = _result(job, ran, workers, load_before)
    _write(job, result, progress)
    return result


def _write(job: _Job, result: ValidateResult, progress: Progress) -> None:
    """Write what is made of the results: summary, plots and page."""
    folder, plots = job.request.report, draw_plots(result)
    write_file(codec.to_json(result).encode(), folder / SUMMARY)
    for plot in plots:
        write_file(plot.png, folder / plot.name)
    write_file(html_report(result, plots, _frames(job, progress)).encode(), folder / REPORT)
    progress.note(f"written: {folder / SUMMARY}, {folder / REPORT}")


def _frames(job: _Job, progress: Progress) -> tuple[Picture, ...]:
    """Draw frames of the first clip; a report without them is better than none."""
    try:
        return draw_frames(job.request.bundle, job.plan.settings, job.clips[0], progress)
    except StcError as error:
        progress.note(f"no frames in the report: {error.problem}")
        return ()


def _prepare(request: ValidateRequest, progress: Progress) -> _Job:
    _check_packages()
    axes = [parse_axis(text) for text in request.sweep]
    task = find_task(request.task)
    manifest = read_manifest(request.bundle)
    settings = make_settings(request.policy or manifest.policy, axes)
    found = find_original(request, manifest)
    original = found.original if found else None
    settings = with_originals(settings) if found else settings
    beside = find_beside(request.bundle, manifest, request.beside)
    settings = with_others(settings, [other.plan.label for other in beside])
    check_engines(task, settings)
    _check_count(settings, request.max_runs)
    _check_settings(_places(request.bundle, beside), original, settings, progress)
    with progress.stage("questions"):
        options = TaskOptions(request.data, request.fps, request.scorer, request.limit, request.ask)
        read = read_task(task, options)
    for note in read.notes:
        progress.note(note)
    plan = Plan(
        schema="stc.validate-plan/1",
        bundle=describe_bundle(request.bundle, manifest).manifest_sha256,
        task=task.name,
        clips=len(read.clips),
        cpu=read_cpu_model(),
        settings=settings,
        annotations=read.annotations,
        fps=read.fps,
        scorer=find_scorer(task, request.scorer),
        asked=read.asked,
        original=found.plan if found else None,
        beside=tuple(other.plan for other in beside),
    )
    return _Job(request, plan, task, read, manifest, original, beside)


def _places(first: Path, beside: Sequence[Beside]) -> dict[str, Path]:
    return {"": first.resolve(), **{other.plan.label: other.path for other in beside}}


def _check_packages() -> None:
    """Look for what is needed at the end only, which is hours later."""
    missing = [name for name in ("scipy", "matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"validate needs the Python package {missing[0]}.", 'Run pip install "stc-export[validate]".'
        )


def _check_settings(
    places: Mapping[str, Path], original: Original | None, settings: Sequence[Setting], progress: Progress
) -> None:
    """Open a session for every setting, so that what does not fit is told before hours have passed."""
    with progress.stage("settings", len(settings), "settings") as advance:
        for engine, label in dict.fromkeys((setting.engine, setting.bundle) for setting in settings):
            start = ENGINES[engine](places[label], original)
            for setting in settings:
                if (setting.engine, setting.bundle) == (engine, label):
                    start(setting.policy).close()
                    advance(1)


def _check_count(settings: Sequence[Setting], most: int) -> None:
    if len(settings) > most:
        raise UsageError(
            f"--sweep asks for {len(settings)} runs with the baseline, at most {most} are allowed.",
            f"Sweep fewer values, or allow more with --max-runs {len(settings)}: once it runs, progress says how long "
            "it will take, and nothing is lost when it is stopped.",
        )


def _run(job: _Job, rows: Rows, workers: Workers, progress: Progress) -> _Ran:
    """Do what is missing; each clip is in the file before it counts. One that failed is not: it is tried again."""
    plan, folder = job.plan, job.request.report
    done = {(one.setting, one.outcome.clip): one.outcome for one in rows.done}
    check_rows(folder, plan, job.clips, rows.done)
    total = len(plan.settings) * len(job.clips)
    begun = f", {len(done)} of {total} done before" if done else ""
    progress.note(f"{len(plan.settings)} runs of {len(job.clips)} clips, {workers.jobs} at a time{begun}")
    missing = [
        Part(
            job.places[setting.bundle],
            job.task,
            setting,
            tuple(clip for clip in job.clips if (setting.name, clip.name) not in done),
            job.original,
            job.places[""] if setting.bundle else None,
        )
        for setting in plan.settings
    ]
    failures = list[FailedClip]()
    with progress.stage("clips", total - len(done), "clips") as advance:

        def keep(one: SettingClip) -> None:
            if one.outcome.failure:
                failures.append(FailedClip(one.setting, one.outcome.clip, one.outcome.failure))
            else:
                rows.append(one)
                done[one.setting, one.outcome.clip] = one.outcome
            workers.meter.clip_done()
            advance(1)

        workers.run(share_out(missing, workers.jobs), workers.jobs, keep)
    progress.note(f"answers: {folder / RESULTS}")
    return _Ran(done, tuple(failures))


def _result(job: _Job, ran: _Ran, workers: Workers, load_before: float | None) -> ValidateResult:
    plan = job.plan
    whole = _watched_under_all(job, ran)
    clips = {setting.name: [ran.done[setting.name, clip.name] for clip in whole] for setting in plan.settings}
    return ValidateResult(
        schema=SCHEMA,
        command=command_line(),
        bundle=describe_bundle(job.request.bundle, job.manifest),
        target=job.manifest.target,
        task=plan.task,
        clips=len(whole),
        questions=sum(len(clip.questions) for clip in whole),
        jobs=workers.jobs,
        workers=workers.kind,
        settings=score_settings(plan.settings, clips, job.task.rule),
        energy=workers.meter.read(),
        environment=read_environment(1, load_before),
        scorer=plan.scorer,
        fps=plan.fps,
        notes=job.found.notes,
        failures=ran.failures,
        original=plan.original,
        conversions=compare_engines(plan.settings, clips),
        bundles=validated_bundles(job.request.bundle, job.manifest, job.beside),
        changes=compare_bundles(plan.settings, clips),
    )


def _watched_under_all(job: _Job, ran: _Ran) -> list[TaskClip]:
    """Return the clips that no setting failed on: a comparison needs the same questions."""
    failed = {failure.clip for failure in ran.failures}
    whole = [clip for clip in job.clips if clip.name not in failed]
    if not whole:
        first = ran.failures[0]
        raise VideoError(
            f'None of the {len(job.clips)} clips could be watched; the first, "{first.clip}": {first.problem}',
            "Check the videos of the benchmark, and run the same command again.",
        )
    return whole
