"""Targets: named device profiles, read from the JSON files beside :mod:`stc_engines.targets`.

A target is data. Code reads its fields and never asks for its name, so that a new device needs a new file only.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from stc_engines.detect import Device, read_device
from stc_export.spec import codec
from stc_export.spec.errors import UnsupportedError, nearest
from stc_export.spec.manifest import Flavour

BackendKind = Literal["ort", "trt", "trt-rtx"]
Streams = Literal["one", "two"]
_IN_PLACE: frozenset[BackendKind] = frozenset({"ort"})
TargetPrecision = Literal["fp32", "fp16", "bf16", "int8", "fp8", "int4", "fp4"]
EvidenceState = Literal["tested", "built", "untested"]
Origin = Literal["document", "arithmetic", "memory", "estimate"]


@dataclass(frozen=True)
class Backend:
    """What executes the graphs on a target.

    Attributes:
        kind: ``ort`` (ONNX Runtime), ``trt`` (TensorRT) or ``trt-rtx`` (TensorRT-RTX).
        providers: Execution providers of ONNX Runtime in order of preference; empty for others.
        extra: The extra of ``stc-export`` that installs it, if any.
        streams: CUDA streams that it works on: with two of them the prefill of a frame runs beside the encoder.
    """

    kind: BackendKind
    providers: tuple[str, ...]
    extra: str | None
    streams: Streams = "one"

    @property
    def in_place(self) -> bool:
        """Whether its graphs can write over the state that they read."""
        return self.kind in _IN_PLACE


@dataclass(frozen=True)
class Throughput:
    """Peak of one precision without sparsity, in 10^12 operations per second (a multiply-add counts as two)."""

    precision: TargetPrecision
    tera_ops_per_s: float


@dataclass(frozen=True)
class GraphPrecisions:
    """A precision for the graphs of each role, and for the embedding table that the host reads."""

    cacher_gate: TargetPrecision
    vit: TargetPrecision
    pruner: TargetPrecision
    llm: TargetPrecision
    embed: TargetPrecision

    @property
    def text(self) -> str:
        """What people read: ``fp16`` if it is the same for all, else e.g. ``cacher_gate fp16, vit int8, ...``."""
        named = vars(self)
        alike = len(set(named.values())) == 1
        return self.llm if alike else ", ".join(f"{role} {precision}" for role, precision in named.items())


@dataclass(frozen=True)
class Software:
    """A JetPack release that the target is expected with, and the TensorRT inside it."""

    jetpack: str
    tensorrt: str


@dataclass(frozen=True)
class Evidence:
    """What was really done with a target.

    Attributes:
        state: ``tested`` (graphs ran on it), ``built`` (engines were built for it) or ``untested``.
        date: Day of the last test as ``YYYY-MM-DD``; ``None`` when untested.
        note: One sentence.
    """

    state: EvidenceState
    date: str | None
    note: str


@dataclass(frozen=True)
class Source:
    """Where a figure comes from.

    Attributes:
        figure: Name of the field, e.g. ``memory_bytes`` or ``dense_throughput.int8``.
        origin: ``document``; ``arithmetic`` from another figure; ``memory`` (unchecked); ``estimate``.
        text: The document, the calculation or the reasoning.
    """

    figure: str
    origin: Origin
    text: str


@dataclass(frozen=True)
class Target:
    """A named device profile; ``None`` means that the figure depends on the machine.

    Attributes:
        name: What ``--target`` takes; also the name of the file.
        title: One line for people.
        backend: What executes the graphs.
        precisions: Precisions that device and backend compute.
        default_precision: Precision of each graph when none is asked for: one for all of them, since what graphs hand
            each other has one type.
        evidence: What was really done with it.
        sources: Origin of each figure.
        stands_for: Generic name that means this target on a machine that is not of the group, e.g. ``jetson``.
        device_models: Parts of the device-tree model by which a machine is recognised as this target.
        gpu_names: What the driver calls the GPU of this target.
        sm: CUDA compute capability.
        memory_bytes: Nominal memory.
        memory_unified: Whether CPU and GPU share it.
        memory_reserved_bytes: Part of it that firmware, system and driver take.
        bandwidth_bytes_per_s: Peak memory bandwidth.
        dense_throughput: Peak throughput per precision.
        software: Releases that it is expected with.
        flavour: Operators of its graphs when none are asked for.
    """

    name: str
    title: str
    backend: Backend
    precisions: tuple[TargetPrecision, ...]
    default_precision: GraphPrecisions
    evidence: Evidence
    sources: tuple[Source, ...]
    stands_for: str | None = None
    device_models: tuple[str, ...] = ()
    gpu_names: tuple[str, ...] = ()
    sm: str | None = None
    memory_bytes: int | None = None
    memory_unified: bool = False
    memory_reserved_bytes: int | None = None
    bandwidth_bytes_per_s: int | None = None
    dense_throughput: tuple[Throughput, ...] = ()
    software: tuple[Software, ...] = ()
    flavour: Flavour = "base"


def load_targets() -> tuple[Target, ...]:
    """Read all targets, sorted by name.

    Raises:
        DecodeError: A file of the package is not a target (a mistake in this repository, not of a user).
    """
    names = sorted(f.name for f in files("stc_engines.targets").iterdir() if f.name.endswith(".json"))
    return tuple(_read(name) for name in names)


def find_target(name: str, device: Device | None = None) -> Target:
    """Return a target by its name, or by the generic name of a group of devices such as ``jetson``.

    A generic name means the machine this runs on when it belongs to the group, and elsewhere the target that stands
    for the group.

    Args:
        name: What the user typed.
        device: The machine; ``None``: read it.

    Raises:
        UnsupportedError: No such target, or a device of the group that no target describes.
    """
    targets = load_targets()
    for target in targets:
        if target.name == name:
            return target
    stand_in = next((t for t in targets if t.stands_for == name), None)
    if stand_in is None:
        known = [t.name for t in targets] + sorted({t.stands_for for t in targets if t.stands_for})
        raise UnsupportedError(f'There is no target "{name}".', nearest(name, known))
    here = device or read_device()
    if here.group != name:
        return stand_in
    described = next((t for t in targets if describes(t, here)), None)
    if described is not None:
        return described
    raise UnsupportedError(
        f'No target describes this device ("{here.model}").',
        f"Name a smaller one of its kind, for example --target {stand_in.name}.",
    )


def _read(file_name: str) -> Target:
    text = (files("stc_engines.targets") / file_name).read_text(encoding="utf-8")
    try:
        target = codec.from_json(Target, text)
    except codec.DecodeError as error:
        raise codec.DecodeError(f"{file_name}: {error}") from error
    if f"{target.name}.json" != file_name:
        raise codec.DecodeError(f'{file_name} describes the target "{target.name}"; the two names must agree')
    return target


def describes(target: Target, device: Device) -> bool:
    """Whether a device is the board that a target names, with its memory."""
    if not any(part in (device.model or "") for part in target.device_models):
        return False
    if target.memory_bytes is None or device.memory_bytes is None:
        return True
    # One model name covers several memory sizes, and the system reports a little less than the nominal size.
    return target.memory_bytes / 2 < device.memory_bytes <= target.memory_bytes
