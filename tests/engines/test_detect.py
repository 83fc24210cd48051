from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from stc_engines.detect import Gpu, count_cores, read_cpu_model, read_cuda_driver, read_device, read_gpu

if TYPE_CHECKING:
    from pathlib import Path

L4T = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_read_device_jetson_files_give_board_and_jetpack(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path, "etc/nv_tegra_release", L4T)
    write(tmp_path, "proc/meminfo", "MemTotal:        7802988 kB\nMemAvailable:    5000000 kB\n")
    device = read_device(tmp_path)
    assert (device.group, device.model) == ("jetson", "NVIDIA Jetson Orin Nano Developer Kit")
    assert (device.l4t, device.jetpack) == ("36.4.3", "6.2")
    assert (device.memory_bytes, device.memory_available_bytes) == (7802988 * 1024, 5000000 * 1024)


def test_read_device_empty_root_is_an_unknown_machine(tmp_path: Path) -> None:
    device = read_device(tmp_path)
    assert [device.group, device.model, device.l4t, device.jetpack, device.memory_bytes] == [None] * 5


def test_read_device_unknown_release_is_a_jetson_without_jetpack(tmp_path: Path) -> None:
    write(tmp_path, "etc/nv_tegra_release", "# R99 (release), REVISION: 1.0, GCID: 1\n")
    assert (read_device(tmp_path).group, read_device(tmp_path).jetpack) == ("jetson", None)


def test_read_device_other_board_is_no_jetson(tmp_path: Path) -> None:
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B\0")
    assert (read_device(tmp_path).group, read_device(tmp_path).model) == (None, "Raspberry Pi 5 Model B")


def test_read_device_container_limit_below_physical_memory_wins(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal: 8000 kB\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "4096000\n")
    assert read_device(tmp_path).memory_bytes == 4096000
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert read_device(tmp_path).memory_bytes == 8000 * 1024


def test_read_cpu_model_arm_without_name_is_the_architecture(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 62.50\n")
    assert read_cpu_model(tmp_path) != ""


def test_read_cuda_driver_without_library_is_none() -> None:
    assert read_cuda_driver("libdoes-not-exist.so.1") is None


def test_read_cuda_driver_other_library_is_none() -> None:
    assert read_cuda_driver("libc.so.6") is None


def test_count_cores_counts_the_allowed_ones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 3, 5}, raising=False)
    assert count_cores() == 3


_DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return FAILS; }
int cuDeviceGet(int *device, int number) { *device = 7; return number; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Orin", size); return device != 7; }
int cuDeviceGetAttribute(int *value, int asked, int device) { *value = asked == 75 ? 8 : 7; return device != 7; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler to make a driver with")
@pytest.mark.parametrize(("fails", "expected"), [(0, Gpu("Orin", "8.7")), (100, None)])
def test_read_gpu_asks_the_driver(tmp_path: Path, fails: int, expected: Gpu | None) -> None:
    (tmp_path / "driver.c").write_text(_DRIVER.replace("FAILS", str(fails)))
    library = tmp_path / f"libfake{fails}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    assert read_gpu(str(library)) == expected


@pytest.mark.parametrize("library", ["libdoes-not-exist.so.1", "libc.so.6"])
def test_read_gpu_without_a_driver_is_none(library: str) -> None:
    assert read_gpu(library) is None
