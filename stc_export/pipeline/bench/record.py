"""What ``bench --out`` writes: raw samples with everything that is needed to judge and repeat them."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from stc_engines.detect import count_cores, read_cpu_model, read_device
from stc_export.pipeline.bench.series import Series
from stc_export.pipeline.doctor import installed_version
from stc_export.pipeline.types import BenchResult
from stc_export.spec import codec
from stc_export.spec.dims import ModelDims
from stc_export.spec.errors import UsageError
from stc_export.spec.files import write_file
from stc_export.spec.manifest import MANIFEST_NAME, Manifest
from stc_export.spec.policy import Policy

SCHEMA = "stc.bench/1"
_CLOCK = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")


@dataclass(frozen=True)
class Environment:
    """Where it was measured; what cannot be read is ``None``.

    Attributes:
        cpu: Name of the CPU.
        cores: Cores that the process may use.
        threads: Threads inside an operator.
        clock_mhz: Clock of the first core before the measurements, where the system tells it.
        memory_bytes: Memory that the process can use.
        board: Name of the board, on a Jetson and the like.
        system: Operating system with its kernel, and architecture.
        python: Version of Python.
        numpy: Version of numpy.
        onnxruntime: Version of ONNX Runtime.
        stc_export: Our version.
        load_before: Load average of one minute before the measurements.
        load_after: The same after them; it includes them.
    """

    cpu: str
    cores: int
    threads: int
    clock_mhz: float | None
    memory_bytes: int | None
    board: str | None
    system: str
    python: str
    numpy: str | None
    onnxruntime: str | None
    stc_export: str | None
    load_before: float | None
    load_after: float | None


@dataclass(frozen=True)
class BenchedBundle:
    """What was measured.

    Attributes:
        manifest_sha256: Digest of the bundle's manifest, which holds the digests of all its files.
        model: Name of the model.
        trained: False: the weights are random, which does not change times.
        precision: Precision of the bundle.
        dims: Sizes of the model.
        policy: The bundle's own policy.
    """

    manifest_sha256: str
    model: str
    trained: bool
    precision: str
    dims: ModelDims
    policy: Policy


@dataclass(frozen=True)
class BenchRecord:
    """A result with its evidence.

    Attributes:
        schema: ``stc.bench/1``.
        command: What was typed.
        bundle: What was measured.
        video: Name of the video's file, or ``generated``.
        environment: Where it was measured.
        series: All samples.
        result: The rows made of them.
    """

    schema: str
    command: str
    bundle: BenchedBundle
    video: str
    environment: Environment
    series: tuple[Series, ...]
    result: BenchResult


def read_environment(threads: int | None, load_before: float | None) -> Environment:
    """Describe this machine after the measurements.

    Args:
        threads: Threads that were asked for; ``None``: one per core.
        load_before: What :func:`load_average` said before them.
    """
    device, cores = read_device(), count_cores()
    return Environment(
        cpu=read_cpu_model(),
        cores=cores,
        threads=threads or cores,
        clock_mhz=_clock_mhz(),
        memory_bytes=device.memory_bytes,
        board=device.model,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        numpy=installed_version("numpy"),
        onnxruntime=installed_version("onnxruntime") or installed_version("onnxruntime-gpu"),
        stc_export=installed_version("stc-export"),
        load_before=load_before,
        load_after=load_average(),
    )


def load_average() -> float | None:
    """Return the load average of the last minute, ``None`` where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _clock_mhz() -> float | None:
    try:
        return int(_CLOCK.read_text()) / 1e3
    except (OSError, ValueError):
        return None


def command_line() -> str:
    """Return what was typed, with the program's name without its folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def describe_bundle(root: Path, manifest: Manifest) -> BenchedBundle:
    """Describe the bundle in ``root``."""
    return BenchedBundle(
        manifest_sha256=hashlib.sha256((root / MANIFEST_NAME).read_bytes()).hexdigest(),
        model=manifest.model.name,
        trained=manifest.model.trained,
        precision=manifest.precision,
        dims=manifest.dims,
        policy=manifest.policy,
    )


def check_record_path(out: Path) -> None:
    """Check where a record is to be written, before anything is measured.

    Raises:
        UsageError: A directory, or a file in a directory that is missing.
    """
    if out.is_dir():
        raise UsageError(f'"{out}" is a directory, expected a file for the result.', "Name a file: --out bench.json.")
    if not out.parent.is_dir():
        raise UsageError(f'The directory "{out.parent}" for the result is missing.', "Create it first.")


def write_record(record: BenchRecord, out: Path) -> None:
    """Write a record; an interrupted write leaves an older one as it was."""
    write_file(codec.to_json(record).encode(), out)
