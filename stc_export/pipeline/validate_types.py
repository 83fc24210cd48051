"""Request and result of ``validate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stc_export.pipeline.bench_record import BenchedBundle, Environment
from stc_export.pipeline.types import Latency
from stc_export.spec.policy import Policy
from stc_export.validate.folder import OriginalPlan
from stc_export.validate.types import Engine, Interval, Work


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
        reference: ``torch``: every setting runs in the original model, too; ``None``: in the bundle only.
        model: The original model: a checkpoint directory, hub id or ``demo``; ``None``: what the bundle names.
        attention: How the original model computes attention.
    """

    bundle: Path
    task: str
    report: Path
    policy: Policy | None = None
    sweep: tuple[str, ...] = ()
    limit: int | None = None
    max_runs: int = 64
    jobs: int | None = None
    reference: str | None = None
    model: str | None = None
    attention: str | None = None


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
        engine: What ran it; its baseline ran there, too.
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
    engine: Engine = "bundle"


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
        settings: All settings, the baseline first.
        environment: Where the last command ran.
        original: The original model; ``None`` when only the bundle ran.
        conversions: Each setting of the bundle against the same policy in the original model.
    """

    schema: str
    command: str
    bundle: BenchedBundle
    target: str
    task: str
    clips: int
    questions: int
    jobs: int
    settings: tuple[SettingScore, ...]
    environment: Environment
    original: OriginalPlan | None = None
    conversions: tuple[Conversion, ...] = ()
