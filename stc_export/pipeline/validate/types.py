"""Request and result of ``validate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stc_export.pipeline.bench.record import BenchedBundle, Environment
from stc_export.pipeline.types import Latency
from stc_export.spec.policy import Policy
from stc_export.validate.averages import Official
from stc_export.validate.folder import OriginalPlan
from stc_export.validate.meter import Energy
from stc_export.validate.types import Engine, Interval, Work, WorkersKind


@dataclass(frozen=True)
class ValidateRequest:
    """What ``validate`` was asked for.

    Attributes:
        bundle: Path of the bundle.
        task: Name of a task.
        report: Folder for the results.
        policy: Base policy; ``None``: the bundle's own.
        sweep: Texts ``KEY=A,B,C``.
        limit: Only so many clips; ``None``: all.
        max_runs: Most settings.
        jobs: Processes at a time; ``None``: one per core.
        ray: Address of a Ray cluster that does the work; ``None``: processes of this machine.
        reference: ``torch``: every setting runs in the original model, too; ``None``: in the bundle only.
        model: The original model: a checkpoint directory, hub id or ``demo``; ``None``: what the bundle names.
        attention: How the original model computes attention.
        data: Video, or folder with the files of the task.
        fps: Frames to take per second of its videos; ``None``: the task's own choice.
        scorer: Name of a scorer; ``None``: the task's own.
        ask: Questions in place of the task's own.
        beside: Other bundles of the model; every setting runs in them, too.
    """

    bundle: Path
    task: str
    report: Path
    policy: Policy | None = None
    sweep: tuple[str, ...] = ()
    limit: int | None = None
    max_runs: int = 64
    jobs: int | None = None
    ray: str | None = None
    reference: str | None = None
    model: str | None = None
    attention: str | None = None
    data: Path | None = None
    fps: float | None = None
    scorer: str | None = None
    ask: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RescoreRequest:
    """What ``validate --rescore`` was asked for.

    Attributes:
        report: Folder with results.
        scorer: Name of a scorer of their task.
    """

    report: Path
    scorer: str


@dataclass(frozen=True)
class Comparison:
    """A setting against another, usually the baseline, on the same questions.

    Attributes:
        difference: Accuracy minus the other's, with the 95 % interval of a paired bootstrap over clips.
        mcnemar_p: Two-sided p-value of McNemar's exact test.
        verdict: What can be said of it in words.
    """

    difference: Interval
    mcnemar_p: float
    verdict: str


@dataclass(frozen=True)
class GroupScore:
    """Accuracy on some of the questions; without a comparison for the baseline itself."""

    name: str
    accuracy: Interval
    against_off: Comparison | None


@dataclass(frozen=True)
class ValidateLatencies:
    """Latency of each stage; see :class:`stc_export.validate.types.StageTimes`."""

    frame: Latency
    gate: Latency
    vit_full: Latency
    vit_selective: Latency
    pruner: Latency
    prefill: Latency
    decode: Latency
    first_token: Latency


@dataclass(frozen=True)
class Closeness:
    """A figure of all clips together.

    Attributes:
        mean: Over all its samples.
        worst: The worst sample.
        n: Samples: frames or questions.
        low: Lower end of the 95 % interval of the mean, from a bootstrap that draws whole clips; ``None`` with fewer
            than ten clips.
        high: Upper end of it.
    """

    mean: float
    worst: float
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class FidelityScore:
    """How close a setting stays to no compression; see :class:`stc_export.validate.types.ClipFidelity`.

    Attributes:
        clips: Clips behind it.
        feature_cosine: ViT features of all frames.
        feature_error: The same, relative error.
        token_cosine: Visual tokens that reached the LLM.
        token_error: The same, relative error.
        same_answer: Questions with the same answer, 1 or 0 each.
        same_first: Questions with the same first token, 1 or 0 each.
        divergence: KL(dense || compressed) of the first token of each answer, in nats.
    """

    clips: int
    feature_cosine: Closeness
    feature_error: Closeness
    token_cosine: Closeness
    token_error: Closeness
    same_answer: Closeness
    same_first: Closeness
    divergence: Closeness


@dataclass(frozen=True)
class SettingScore:
    """What one setting gave.

    Attributes:
        name: Its name.
        policy: Its policy.
        overall: On all questions.
        groups: On each group of questions.
        work: What it cost, summed over all clips.
        computed: Share of the ViT's tokens that were computed.
        kept: Share of the visual tokens that reached the LLM.
        frame_mean_ms: Mean time of a frame; with full and selective frames by turns, the median says little.
        latency_ms: Percentiles over all clips.
        frames_per_second: Frames that one process took in per second of their stages; 0 without frames.
        peak_rss_bytes: Largest resident size of a process that watched clips; ``None`` where it is not known.
        official: The figure that the benchmark itself reports, where that is not the share of right answers.
        fidelity: How close it stays to no compression, where the task compares that.
        engine: What ran it; its baseline ran there, too.
        bundle: Label of the bundle that ran it; "": the one that was named first, as its baseline.
    """

    name: str
    policy: Policy
    overall: GroupScore
    groups: tuple[GroupScore, ...]
    work: Work
    computed: float
    kept: float
    frame_mean_ms: float
    latency_ms: ValidateLatencies
    frames_per_second: float
    peak_rss_bytes: int | None
    official: Official | None = None
    fidelity: FidelityScore | None = None
    engine: Engine = "bundle"
    bundle: str = ""


@dataclass(frozen=True)
class ValidatedBundle:
    """One of several bundles that were validated together.

    Attributes:
        label: What its settings are called by; "": the first one, whose settings have no label.
        name: Name of its directory.
        model: Name of the model.
        precision: Precisions of its graphs.
        weights_bytes: Size of the files with weights.
        manifest_sha256: Digest of the manifest, which holds the digests of all files.
    """

    label: str
    name: str
    model: str
    precision: str
    weights_bytes: int
    manifest_sha256: str


@dataclass(frozen=True)
class BundleChange:
    """What another bundle did to the answers: the same policy there and in the first bundle.

    Attributes:
        name: Name of the setting in the other bundle.
        agreement: Share of questions with the same answer, right or wrong.
        against_first: The other bundle's accuracy against the first one's.
    """

    name: str
    agreement: float
    against_first: Comparison


@dataclass(frozen=True)
class Conversion:
    """What the conversion did to the answers: the bundle against the original model under the same policy.

    Attributes:
        name: Name of the setting in the bundle.
        agreement: Share of questions with the same answer, right or wrong.
        against_original: The bundle's accuracy against the original model's.
    """

    name: str
    agreement: float
    against_original: Comparison


@dataclass(frozen=True)
class FailedClip:
    """A clip that could not be watched under a setting; it counts in none of them.

    Attributes:
        setting: Name of the setting.
        clip: Name of the clip.
        problem: Why.
    """

    setting: str
    clip: str
    problem: str


@dataclass(frozen=True)
class ValidateResult:
    """What ``validate --json`` prints, and ``summary.json``.

    Attributes:
        schema: ``stc.validate/1``.
        command: What was typed last.
        bundle: What was validated.
        target: Its target.
        task: Name of the task.
        clips: How many of its clips.
        questions: Questions about them.
        jobs: Processes at a time of the last command; times of stages depend on it.
        workers: Where the processes of the last command ran: ``local``, or ``ray``.
        settings: All settings, the baseline first.
        energy: What the clips of the last command took.
        environment: Where the last command ran; with Ray, the machine that collected.
        scorer: Name of the scorer.
        fps: Frames per second that were taken of the videos; ``None``: they were generated.
        notes: Sentences on what differs from the benchmark as it is documented.
        failures: Clips that could not be watched. ``clips`` and ``questions`` are without them.
        original: The original model; ``None`` when only the bundle ran.
        conversions: Each setting of the bundle against the same policy in the original model.
        bundles: All bundles, the first one first; empty when only one ran.
        changes: Each setting of the other bundles against the same policy in the first one.
    """

    schema: str
    command: str
    bundle: BenchedBundle
    target: str
    task: str
    clips: int
    questions: int
    jobs: int
    workers: WorkersKind
    settings: tuple[SettingScore, ...]
    energy: Energy
    environment: Environment
    scorer: str = "first_character"
    fps: float | None = None
    notes: tuple[str, ...] = ()
    failures: tuple[FailedClip, ...] = ()
    original: OriginalPlan | None = None
    conversions: tuple[Conversion, ...] = ()
    bundles: tuple[ValidatedBundle, ...] = ()
    changes: tuple[BundleChange, ...] = ()
