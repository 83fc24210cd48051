"""What this machine has, which extras are complete, and whether the runtime can run here. Loads no heavy package."""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from stc_engines.detect import Device, count_cores, read_cpu_model, read_device
from stc_engines.runnable import Host, read_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ROOT = Path("/")
_DISTRIBUTION = "stc-export"
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "onnx", "av", "tokenizers")
#: Distributions that provide the same module as another one.
_STAND_INS = {"onnxruntime": "onnxruntime-gpu"}


@dataclass(frozen=True)
class PackageState:
    """A package and its version; ``None`` when it is not installed."""

    name: str
    version: str | None


@dataclass(frozen=True)
class ExtraState:
    """An extra of the distribution.

    Attributes:
        name: Its name.
        missing: Packages that are not installed or too old, e.g. ``av (needs >=12)``.
        command: What completes it; ``None`` when nothing is missing.
    """

    name: str
    missing: tuple[str, ...]
    command: str | None


@dataclass(frozen=True)
class DoctorResult:
    """The findings.

    Attributes:
        stc_export: Version of this distribution.
        python: Version of Python.
        system: Operating system and architecture.
        packages: Versions of the packages that matter.
        providers: Execution providers of the installed ONNX Runtime.
        cuda_driver: CUDA version of the NVIDIA driver, if there is a device.
        cpu: Name of the CPU.
        cores: Cores that this process may use.
        device: Board, JetPack and memory.
        disk_free_bytes: Free space where the command runs.
        extras: State of each extra.
        notes: Findings worth a sentence.
        problem: Why the runtime cannot run here; ``None`` when it can.
        fix: What to do about it.
    """

    stc_export: str
    python: str
    system: str
    packages: tuple[PackageState, ...]
    providers: tuple[str, ...]
    cuda_driver: str | None
    cpu: str
    cores: int
    device: Device
    disk_free_bytes: int
    extras: tuple[ExtraState, ...]
    notes: tuple[str, ...]
    problem: str | None
    fix: str | None


def examine(root: Path = _ROOT, host: Host | None = None) -> DoctorResult:
    """Examine this machine.

    Args:
        root: Where system files are read from.
        host: What there is to run graphs with; ``None``: look.
    """
    found = host or read_host()
    problem, fix = _runtime_problem(found)
    packages = tuple(PackageState(name, installed_version(name)) for name in _PACKAGES)
    return DoctorResult(
        stc_export=installed_version(_DISTRIBUTION) or "not installed",
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=packages,
        providers=found.ort_providers,
        cuda_driver=found.cuda_driver,
        cpu=read_cpu_model(root),
        cores=count_cores(),
        device=read_device(root),
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        extras=check_extras(metadata_requirements(), installed_version),
        notes=_notes(packages),
        problem=problem,
        fix=fix,
    )


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def metadata_requirements() -> tuple[str, ...]:
    """Return the requirements of the installed distribution, e.g. ``av>=12; extra == 'video'``."""
    try:
        return tuple(metadata.requires(_DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        return ()


def check_extras(requirements: Iterable[str], version_of: Callable[[str], str | None]) -> tuple[ExtraState, ...]:
    """Compare the requirements of each extra with what is installed.

    Args:
        requirements: Requirements in the form of package metadata.
        version_of: Returns the installed version of a distribution, or ``None``.
    """
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        found = re.match(r"([\w.-]+)\s*(?:>=\s*([\w.]+))?[^;]*;.*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if found is None:
            continue
        name, least, extra = found.groups()
        lacking = missing.setdefault(extra, [])
        version = version_of(name) or version_of(_STAND_INS.get(name, name))
        if version is None or (least and _numbers(version) < _numbers(least)):
            wanted = f" (needs >={least})" if least else ""
            lacking.append(f"{name}{f' {version}' if version else ''}{wanted}")
    return tuple(
        ExtraState(extra, tuple(lacking), f'pip install "{_DISTRIBUTION}[{extra}]"' if lacking else None)
        for extra, lacking in sorted(missing.items())
    )


def _runtime_problem(host: Host) -> tuple[str | None, str | None]:
    if installed_version("numpy") is None:
        return "numpy is not installed.", "Run pip install numpy."
    if host.ort_version is None:
        return "No backend is installed: ONNX Runtime cannot be imported.", 'Run pip install "stc-export[ort]".'
    if not host.ort_providers:
        return "The installed ONNX Runtime has no execution provider.", 'Reinstall it: pip install "stc-export[ort]".'
    return None, None


def _notes(packages: Iterable[PackageState]) -> tuple[str, ...]:
    present = {package.name for package in packages if package.version}
    if {"onnxruntime", "onnxruntime-gpu"} <= present:
        return ("onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall one.",)
    return ()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))
