"""Requests and results of the commands: one frozen record in, one out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stc_engines.lint.finding import Finding
from stc_export.spec.calibration import ActivationRecord, RoundedFile
from stc_export.spec.engines import Fingerprint, SealRecord
from stc_export.spec.footage import SILENCE_S
from stc_export.spec.manifest import KVFormat, Manifest
from stc_export.spec.policy import Metric, Policy
from stc_export.spec.report import CameraReport


@dataclass(frozen=True)
class BuildRequest:
    """What ``build`` was asked for.

    Attributes:
        model: Checkpoint directory, hub id, or ``demo``.
        target: Name of a target; ``None``: ``cpu``.
        out: Bundle to write; ``None``: ``<model name>.stc`` in the current directory.
        precision: What ``--precision`` takes, e.g. ``fp16`` or ``fp16,llm=int4``; ``None``: the target's default.
        policy: Default policy of the bundle.
        overwrite: Replace an existing bundle once the new one is complete.
        flavour: ``base`` or ``modern``; ``None``: the target's.
        metrics: Metrics that the bundle has graphs for, besides ``cosine``.
        attention: Whether it has the attention that tokens received, and the pruning methods that use it.
        rounding: How weights of few bits are rounded: ``nearest`` or ``awq``.
        keep_precision: Patterns of names of layers that are not rounded, e.g. ``llm.layers.0.*``.
        calib: Folder or video from which scales of activations are chosen.
        head: Precision of the LLM's output matrix, e.g. ``int4``; ``None``: that of activations.
    """

    model: str
    target: str | None = None
    out: Path | None = None
    precision: str | None = None
    policy: Policy = field(default_factory=Policy)
    overwrite: bool = False
    flavour: str | None = None
    metrics: tuple[Metric, ...] = ()
    attention: bool = False
    rounding: str = "nearest"
    keep_precision: tuple[str, ...] = ()
    calib: Path | None = None
    head: str | None = None


@dataclass(frozen=True)
class StageTime:
    """How long one stage took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class SizeEstimate:
    """Bytes that a bundle and one session of it need.

    Attributes:
        disk_bytes: Weights on disk.
        weights_bytes: Weights that a session holds in memory.
        feature_cache_bytes: Feature cache of the ViT with its output buffers.
        kv_bytes: KV memory at the default policy.
        activations_bytes: Largest set of activations that is alive at once, an estimate.
    """

    disk_bytes: int
    weights_bytes: int
    feature_cache_bytes: int
    kv_bytes: int
    activations_bytes: int

    @property
    def session_bytes(self) -> int:
        """Memory of one session."""
        return self.weights_bytes + self.feature_cache_bytes + self.kv_bytes + self.activations_bytes


@dataclass(frozen=True)
class StageBound:
    """The least time of a stage on a device.

    Attributes:
        stage: Name of the stage.
        macs: Multiply-accumulates.
        moved_bytes: The least that must move between memory and chip.
        ms: The least time in milliseconds; ``None`` if nothing is known of the device.
        limit: What takes that long: ``operations`` or ``memory``.
    """

    stage: str
    macs: int
    moved_bytes: int
    ms: float | None
    limit: Literal["operations", "memory"] | None


@dataclass(frozen=True)
class Fit:
    """Whether one session has room on a target, and how fast it can be at best.

    Attributes:
        target: Name of the target.
        precision: Precision of state and operations, and of all weights that are not rounded to fewer bits.
        room_bytes: Memory that the system leaves; ``None`` if it depends on the machine.
        session_bytes: Memory of one session, an estimate.
        fits: Whether there is room; ``None`` if that is not known.
        kv_per_1000_frames_bytes: Memory of the keys and values of a thousand frames, if all were remembered.
        frame_tokens: Tokens of a frame in that figure and in the stages: K as ``pruner.keep`` says it. Budgets that
            follow the content (``pruner.budget``) give each frame its own.
        stages: Bounds, not predictions.
    """

    target: str
    precision: str
    room_bytes: int | None
    session_bytes: int
    fits: bool | None
    kv_per_1000_frames_bytes: int
    frame_tokens: int
    stages: tuple[StageBound, ...]


@dataclass(frozen=True)
class PlannedGraph:
    """A graph that ``build`` would write."""

    role: str
    variant: str
    precision: str
    weights_bytes: int


@dataclass(frozen=True)
class BuildPlan:
    """What ``build --dry-run`` prints: everything that is known before a weight is read.

    Attributes:
        model: Name of the model.
        family: Its family.
        target: Resolved name of the target.
        precision: Precision of all graphs.
        kv: How keys and values of the LLM are kept.
        flavour: Form of the graphs.
        out: Bundle to write.
        parameters: Parameters that the graphs use.
        graphs: Graphs to write.
        size: Bytes on disk and of one session.
        fit: Whether the target has room, and bounds of its times.
        resident_bytes: Resident memory of a process with one session, where graphs run on the CPU; else ``None``.
    """

    model: str
    family: str
    target: str
    precision: str
    kv: KVFormat
    flavour: str
    out: Path
    parameters: int
    graphs: tuple[PlannedGraph, ...]
    size: SizeEstimate
    fit: Fit
    resident_bytes: int | None = None


@dataclass(frozen=True)
class SealRequest:
    """What ``seal`` was asked for.

    Attributes:
        bundle: Directory of the bundle.
        target: Name of a target; ``None``: the one that it was built for.
        overwrite: Build engines again that are there already.
    """

    bundle: Path
    target: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class SealResult:
    """The engines of a bundle.

    Attributes:
        bundle: Directory of the bundle.
        target: Resolved name of the target.
        folder: Directory of the engines.
        record: What they are, and what was checked of them.
        built: Whether they were built now; they were there already if not.
    """

    bundle: Path
    target: str
    folder: Path
    record: SealRecord
    built: bool


@dataclass(frozen=True)
class BuildResult:
    """A finished build.

    Attributes:
        bundle: Directory of the bundle.
        manifest: What it says of itself.
        stages: How long each stage took.
        sealed: Its engines, if this machine could build them.
    """

    bundle: Path
    manifest: Manifest
    stages: tuple[StageTime, ...]
    sealed: SealResult | None = None


@dataclass(frozen=True)
class Question:
    """A question and the time of the stream at which it is asked (``None``: at the end)."""

    text: str
    at_s: float | None = None


@dataclass(frozen=True)
class RunRequest:
    """What ``run`` was asked for.

    Attributes:
        bundle: Path of the bundle.
        video: Path of a video file, a pipe or a camera; or an address.
        questions: Questions in the order given.
        policy: ``None``: the bundle's own.
        fps: Frames taken per second of video.
        max_tokens: Longest answer.
        seed: Seed for sampling; only used when ``top_p`` is below 1.
        top_p: 0: greedy. Otherwise the share of probability that is sampled from.
        temperature: Divides the logits when sampling.
        threads: Threads of the backend; ``None``: its default.
        picture: PNG file for a picture of the tokens of a few frames; ``None``: none is drawn.
        until_s: Time of the video at which it ends.
        silence_s: Longest wait of an address or a pipe for its next data.
        away_s: Longest time that a camera may be away; ``None``: it is no camera, and no frame is dropped.
    """

    bundle: Path
    video: Path | str
    questions: tuple[Question, ...]
    policy: Policy | None = None
    fps: float = 1.0
    max_tokens: int = 64
    seed: int = 0
    top_p: float = 0.0
    temperature: float = 1.0
    threads: int | None = None
    picture: Path | None = None
    until_s: float = math.inf
    silence_s: float = SILENCE_S
    away_s: float | None = None


@dataclass(frozen=True)
class Answer:
    """One answered question."""

    question: str
    at_s: float
    text: str
    ttft_ms: float
    tokens: int


@dataclass(frozen=True)
class FrameCounts:
    """Frames by how they were encoded."""

    total: int
    full: int
    selective: int
    skip: int


@dataclass(frozen=True)
class TokenCounts:
    """Visual tokens before pruning and tokens that reached the LLM."""

    visual_before: int
    visual_kept: int


@dataclass(frozen=True)
class Latency:
    """Percentiles of a stage's time in milliseconds; zero when ``n`` is zero."""

    p50: float
    p95: float
    n: int


@dataclass(frozen=True)
class StageLatencies:
    """Latency of each stage."""

    gate: Latency
    vit_full: Latency
    vit_selective: Latency
    pruner: Latency
    prefill: Latency
    decode: Latency


@dataclass(frozen=True)
class RunMemory:
    """Bytes: peak resident size of the process, and what the session reserved."""

    peak_rss: int
    feature_cache: int
    kv: int


@dataclass(frozen=True)
class RunResult:
    """What ``run --json`` prints."""

    answers: tuple[Answer, ...]
    frames: FrameCounts
    tokens: TokenCounts
    latency_ms: StageLatencies
    memory_bytes: RunMemory
    bundle: str
    target: str
    policy: Policy
    trained: bool
    camera: CameraReport | None = None


@dataclass(frozen=True)
class BenchRequest:
    """What ``bench`` was asked for.

    Attributes:
        bundle: Path of the bundle.
        video: Path of a video; ``None``: a generated one.
        frames: Frames that each measurement runs over.
        repeats: Times that each measurement is repeated.
        threads: Threads of the backend; ``None``: its default.
        out: File for the result with raw samples and environment; ``None``: none is written.
    """

    bundle: Path
    video: Path | None = None
    frames: int = 32
    repeats: int = 3
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True)
class BenchRow:
    """One stage against its baseline, measured in the same run.

    Attributes:
        stage: What was measured, e.g. ``vit selective 25 %``.
        baseline: What it is compared with, e.g. ``vit full``.
        ratio: Baseline time over stage time at p50; above 1 is faster.
        bound: The ratio that the operation count allows; ``None`` where no bound is known.
        p50_ms: Median time of the stage, per frame.
        baseline_p50_ms: Median time of the baseline, per frame.
        n: Values of each that the medians are of: frames, or means over the frames of a pass.
    """

    stage: str
    baseline: str
    ratio: float
    bound: float | None
    p50_ms: float
    baseline_p50_ms: float
    n: int


@dataclass(frozen=True)
class BenchResult:
    """What ``bench`` measured.

    Attributes:
        bundle: Path of the bundle.
        target: Its target.
        rows: Measurements against their baselines.
        notes: What a reader of the rows needs to know: what was not measured, how frames were encoded.
    """

    bundle: str
    target: str
    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileFault:
    """A listed file of a bundle that is not as listed, with what is wrong, e.g. ``12 bytes, expected 14``."""

    path: str
    problem: str


@dataclass(frozen=True)
class SharedWeights:
    """A weight file, its size, and the ``role/variant`` of every graph that refers to it."""

    path: str
    size_bytes: int
    graphs: tuple[str, ...]


@dataclass(frozen=True)
class SealedEngines:
    """Engines of a bundle for one device and compiler.

    Attributes:
        folder: Path in the bundle.
        fingerprint: What they are bound to.
        count: How many there are.
        size_bytes: What they take.
        whole: Whether every plan is there in its size.
        not_checked: Why their numbers were not checked, or only in part.
    """

    folder: str
    fingerprint: Fingerprint
    count: int
    size_bytes: int
    whole: bool
    not_checked: str | None


@dataclass(frozen=True)
class CheckedRelease:
    """A finding, and the releases of the compiler that it is true for."""

    finding: Finding
    releases: tuple[str, ...]


@dataclass(frozen=True)
class CheckResult:
    """What is wrong with a bundle on a target.

    Attributes:
        bundle: Path of the bundle.
        target: Resolved name of the target.
        releases: What it was checked against.
        rules: How many checks each graph went through, beside those of the whole bundle.
        findings: What was found.
        ok: No finding is an error.
    """

    bundle: Path
    target: str
    releases: tuple[str, ...]
    rules: int
    findings: tuple[CheckedRelease, ...]
    ok: bool


@dataclass(frozen=True)
class TunedPolicy:
    """A policy that ``calibrate`` wrote into a bundle.

    Attributes:
        budget: What was asked for, e.g. ``accuracy=0.99``.
        name: What was chosen.
        usable: ``--policy tuned`` takes it: the bundle is the one that it was tuned for, and the file was not changed.
    """

    budget: str
    name: str
    usable: bool


@dataclass(frozen=True)
class InspectResult:
    """What a bundle holds and whether it is as its manifest says.

    Attributes:
        bundle: Path of the bundle.
        manifest: Its manifest: graphs, interfaces, policy, parity, files.
        total_bytes: Size of all listed files.
        weights: Weight files and the graphs that share them, largest first.
        missing: Listed files that are not there.
        altered: Listed files that are there with another size, content or kind.
        unlisted: Files that neither the manifest nor a record of engines names, and that no tuning wrote. They are
            never opened and do not make a bundle broken.
        engines: Engines that were built from it, one row per device and compiler.
        ok: Nothing is missing or altered.
        rounded: What rounding weights to few bits did, one row per weight file.
        tuned: The policy that was tuned for it; ``None`` where there is none that can be read.
        activations: Scales of activations and what they were chosen from, if there are any.
    """

    bundle: Path
    manifest: Manifest
    total_bytes: int
    weights: tuple[SharedWeights, ...]
    missing: tuple[str, ...]
    altered: tuple[FileFault, ...]
    unlisted: tuple[str, ...]
    engines: tuple[SealedEngines, ...]
    ok: bool
    rounded: tuple[RoundedFile, ...] = ()
    tuned: TunedPolicy | None = None
    activations: ActivationRecord | None = None
