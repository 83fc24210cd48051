"""``calibrate --budget``: search a policy on the user's own data and device, and write it with the evidence."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from stc_calib.tuning.budgets import Budget, parse_budget
from stc_calib.tuning.search import OutOfTimeError, Trial, confirm, nearest_miss, screen
from stc_calib.tuning.space import BASELINE, CLIP_FRAMES, PUBLISHED, Candidate, make_candidates
from stc_engines.detect import read_cpu_model
from stc_engines.opening import open_backend
from stc_export.pipeline.calibrate.data import TuningClips, check_enough, read_clips
from stc_export.pipeline.calibrate.evidence import Evidence, make_record, write_tuning
from stc_export.pipeline.calibrate.figures import counted, held_out_figures
from stc_export.pipeline.calibrate.places import find_place
from stc_export.pipeline.calibrate.trials import Clock, Library, SearchTrials
from stc_export.pipeline.calibrate.types import Place, TuneRequest, TuneResult
from stc_export.pipeline.calibrate.watchers import OpenWatcher, open_watcher
from stc_export.spec.errors import BundleError, MissingDependencyError, PolicyError, ResourceError
from stc_export.spec.progress import Progress
from stc_export.spec.tuning import HeldOutPolicy, manifest_digest
from stc_export.validate.folder import Plan, TuningPlan, check_rows, open_rows
from stc_export.validate.types import Setting, TaskClip
from stc_runtime.model import Model
from stc_runtime.session import StreamSession

#: Clips that all candidates are watched on.
_SCREENING_CLIPS = 3


@dataclass(frozen=True)
class _Job:
    """Everything that is known before a clip is streamed."""

    request: TuneRequest
    budget: Budget
    clips: TuningClips
    model: Model
    candidates: tuple[Candidate, ...]
    place: Place

    @property
    def baseline(self) -> Candidate:
        """The uncompressed model."""
        return self.candidates[0]

    @property
    def all_clips(self) -> tuple[TaskClip, ...]:
        """Clips of the search, then those that are held out."""
        return (*self.clips.search, *self.clips.held_out)


def tune(
    request: TuneRequest, progress: Progress, watchers: OpenWatcher = open_watcher, clock: Clock = time.monotonic
) -> TuneResult:
    """Search a policy that meets a budget.

    Every clip is written as it is complete. A second call with the same data does what is missing; it may ask for
    another budget.

    Args:
        request: What is asked for.
        progress: Receiver of progress.
        watchers: Opens who watches clips.
        clock: Monotonic time in seconds.

    Raises:
        StcError: Bundle, data, budget or place cannot be used, or the target cannot run here.
        ResourceError: The time was up before the search was done.
    """
    job = _prepare(request, progress)
    plan = _plan(job)
    with open_rows(job.place.rows, plan, "--out") as rows:
        check_rows(job.place.rows, plan, job.all_clips, rows.done)
        watcher = watchers(job.model, job.clips.task)
        library = Library(watcher, rows, clock)
        try:
            evidence = _search(job, library, progress)
        except OutOfTimeError as error:
            raise ResourceError(
                f"{request.minutes:g} minutes were up before the search was done; what was watched is kept.",
                "Run the same command again: it continues. Or raise --minutes.",
            ) from error
    record = make_record(request, job.clips, evidence, job.model.manifest)
    if record.met:
        write_tuning(record, job.place, progress)
    return TuneResult(record, job.place, job.model.manifest.model.trained)


def _prepare(request: TuneRequest, progress: Progress) -> _Job:
    _check_packages()
    budget = parse_budget(request.budget)
    model = Model.open(request.bundle, open_backend(request.bundle, request.threads))
    with progress.stage("videos"):
        clips = read_clips(request)
    check_enough(clips, budget)
    methods = {pruner.method for pruner in model.manifest.pruners}
    candidates = make_candidates(model.manifest.policy.memory, methods)
    usable = tuple(one for one in candidates if one.name == BASELINE or _fits(model, one))
    return _Job(request, budget, clips, model, usable, find_place(request.bundle, request.out))


def _check_packages() -> None:
    missing = [name for name in ("scipy", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"calibrate needs the Python package {missing[0]}.", 'Run pip install "stc-export[validate]".'
        )


def _fits(model: Model, candidate: Candidate) -> bool:
    """Whether the bundle has the graphs of a candidate, and its memory holds a frame."""
    try:
        StreamSession(model, candidate.policy).close()
    except (BundleError, PolicyError, ResourceError):
        return False
    return True


def _plan(job: _Job) -> Plan:
    return Plan(
        schema="stc.validate-plan/1",
        bundle=manifest_digest(job.request.bundle),
        task=job.clips.task.name,
        clips=len(job.all_clips),
        cpu=read_cpu_model(),
        settings=tuple(Setting(one.name, one.policy) for one in job.candidates),
        annotations=job.clips.sha256,
        fps=job.clips.fps,
        scorer=job.clips.task.scorers[0],
        asked=job.clips.asked,
        tuning=TuningPlan(CLIP_FRAMES, job.request.threads),
    )


def _search(job: _Job, library: Library, progress: Progress) -> Evidence:
    until = math.inf if job.request.minutes is None else library.now() + 60 * job.request.minutes
    questions, reserve_s = _watch_baselines(job, library, until, progress)
    screened = _screen(job, library, until, progress)
    with progress.stage("confirming", None, "clips") as advance:
        trials = _trials(job, library, until - reserve_s, advance)
        found = confirm(screened, job.budget, len(job.clips.search), questions, trials)
    chosen = found.chosen or nearest_miss(screened, job.budget)
    held_out = _held_out(job, library, chosen.candidate, until, progress)
    return Evidence(job.budget, found, chosen, questions, held_out)


def _watch_baselines(job: _Job, library: Library, until: float, progress: Progress) -> tuple[int, float]:
    """Watch what everything is compared with.

    Returns:
        Questions of the search that the uncompressed model answers right, and the seconds that it took for the clips
        that are held out: the chosen policy needs less.
    """
    with progress.stage("without compression", len(job.all_clips), "clips") as advance:
        search = library.outcomes(job.baseline, job.clips.search, until, advance)
        began = library.now()
        library.outcomes(job.baseline, job.clips.held_out, until, advance)
    return sum(map(len, counted(search, search))), library.now() - began


def _screen(job: _Job, library: Library, until: float, progress: Progress) -> tuple[Trial, ...]:
    """Watch all candidates on a few clips, in at most half of the time that is left."""
    clips = min(_SCREENING_CLIPS, len(job.clips.search))
    half = library.now() + (until - library.now()) / 2
    with progress.stage("screening", clips * len(job.candidates), "clips") as advance:
        screened = screen(job.candidates, clips, _trials(job, library, half, advance))
    if len(screened) < len(job.candidates):
        progress.note(f"time for {len(screened)} of {len(job.candidates)} candidates; the same command goes on")
    return screened


def _trials(job: _Job, library: Library, until: float, advance: Callable[[int], None]) -> SearchTrials:
    return SearchTrials(library, job.clips.search, job.baseline, job.model.manifest.dims, until, advance)


def _held_out(
    job: _Job, library: Library, chosen: Candidate, until: float, progress: Progress
) -> tuple[HeldOutPolicy, ...]:
    """Return the figures on the clips that the search did not look at."""
    published = [one for one in job.candidates if one.name == PUBLISHED]
    shown = list({one.name: one for one in (job.baseline, *published, chosen)}.values())
    clips, dims = job.clips.held_out, job.model.manifest.dims
    with progress.stage("held out", len(shown) * len(clips), "clips") as advance:
        watched = [library.outcomes(one, clips, until, advance) for one in shown]
    return tuple(held_out_figures(one, own, watched[0], dims) for one, own in zip(shown, watched, strict=True))
