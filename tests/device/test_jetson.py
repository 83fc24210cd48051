"""A Jetson is recognised from its files. The same test reads files as a board has them, and those of a real board."""

from __future__ import annotations

from pathlib import Path

import pytest

from stc_engines.detect import read_device
from stc_engines.runnable import Host
from stc_engines.table import find_target
from stc_export.cli.doctor import result_text
from stc_export.pipeline.doctor import examine

ROOT = Path("/")


def board(folder: Path) -> Path:
    """Files of an Orin NX with 16 GB and JetPack 7.2."""
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
        "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n",
        "proc/meminfo": "MemTotal:       16000000 kB\nMemAvailable:   12000000 kB\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(params=["files", pytest.param("board", marks=pytest.mark.jetson)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where the files of the board are."""
    return {"files": board(tmp_path), "board": ROOT}[request.param]


def test_board_is_one_of_the_targets(root: Path) -> None:
    device = read_device(root)
    target = find_target("jetson", device)
    assert any(part in (device.model or "") for part in target.device_models)
    assert target.memory_unified
    assert target.memory_bytes
    assert device.memory_bytes
    assert target.memory_bytes / 2 < device.memory_bytes <= target.memory_bytes


def test_doctor_names_board_and_jetpack(root: Path) -> None:
    device = read_device(root)
    found = examine(root, Host("1.31.1", ("CPUExecutionProvider",), "13.2", frozenset({"trt"})))
    text = result_text(found)
    assert device.jetpack
    assert f"Jetson Linux  {device.l4t} (JetPack {device.jetpack})" in text
    assert f"board         {device.model}" in text


def test_release_is_one_that_the_target_is_expected_with(root: Path) -> None:
    device = read_device(root)
    releases = {software.jetpack for software in find_target("jetson", device).software}
    assert any((device.jetpack or "").startswith(release) for release in releases)
