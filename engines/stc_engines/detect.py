"""What machine this is: board, JetPack, CPU, memory, CUDA driver; every file is read below a given root."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
#: Of the CUDA driver API: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_GPU_NAME_BYTES = 256

#: JetPack by release of Jetson Linux (L4T); an unknown release is reported without JetPack.
_JETPACK_OF_L4T = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
    "39.2.2": "7.2.2",
}


@dataclass(frozen=True)
class Device:
    """The machine this runs on.

    Attributes:
        group: Group of devices that it belongs to (``jetson``), or ``None``.
        model: Board name from the device tree.
        l4t: Release of Jetson Linux, e.g. ``36.4.3``.
        jetpack: JetPack of that release, if it is a known one.
        memory_bytes: Memory that this process can use at most: physical, or the limit of its container.
        memory_available_bytes: Memory that is free now.
    """

    group: str | None = None
    model: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None


def read_device(root: Path = _ROOT) -> Device:
    """Describe the machine from the files below ``root``; what cannot be read is ``None``."""
    model = _text(root / "proc/device-tree/model").strip("\0\n ") or None
    l4t = _l4t_release(_text(root / "etc/nv_tegra_release"))
    is_jetson = l4t is not None or "jetson" in (model or "").lower()
    return Device(
        group="jetson" if is_jetson else None,
        model=model,
        l4t=l4t,
        jetpack=_JETPACK_OF_L4T.get(l4t or ""),
        memory_bytes=_memory_limit(root),
        memory_available_bytes=_meminfo(root, "MemAvailable"),
    )


def read_cpu_model(root: Path = _ROOT) -> str:
    """Return the CPU's name, or its architecture where no name is published (most ARM boards)."""
    found = re.search(r"^model name\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return found.group(1).strip() if found else (platform.processor() or platform.machine())


def count_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cuda_driver(library: str = "libcuda.so.1") -> str | None:
    """Return the CUDA version of the NVIDIA driver, e.g. ``13.2``; ``None`` without a driver or a device."""
    try:
        cuda = ctypes.CDLL(library)
        version = ctypes.c_int()
        if cuda.cuInit(0) != 0 or cuda.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU.

    Attributes:
        name: As the driver calls it.
        sm: Compute capability, e.g. ``8.7``.
    """

    name: str
    sm: str


def read_gpu(library: str = "libcuda.so.1") -> Gpu | None:
    """Describe the first GPU that the NVIDIA driver shows; ``None`` without a driver or a GPU."""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_GPU_NAME_BYTES)
    try:
        cuda = ctypes.CDLL(library)
        failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
        failed = failed or cuda.cuDeviceGetName(name, len(name), device)
        for value, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
            failed = failed or cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    except (OSError, AttributeError):
        return None
    return None if failed else Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def _l4t_release(text: str) -> str | None:
    found = re.search(r"R(\d+).*?REVISION:\s*(\d+)\.(\d+)", text)
    return ".".join(found.groups()) if found else None


def _memory_limit(root: Path) -> int | None:
    physical = _meminfo(root, "MemTotal")
    limit = _text(root / "sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and (physical is None or int(limit) < physical):
        return int(limit)
    return physical


def _meminfo(root: Path, key: str) -> int | None:
    found = re.search(rf"^{key}:\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
