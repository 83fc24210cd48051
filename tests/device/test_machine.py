"""Tests that need a device are skipped elsewhere, with the reason that a user would be told."""

from __future__ import annotations

import pytest

from stc_engines.detect import Device, Gpu
from stc_engines.recognise import Machine
from stc_engines.runnable import Host
from tests.device.machine import NEEDS, reason_to_skip, sealed_target

CPU = ("CPUExecutionProvider",)
NANO = Device("jetson", "NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2", int(7.4 * 2**30))
LAPTOP = Machine(Device(), None, Host("1.31.1", CPU, None, frozenset({"trt-rtx"})))
SERVER = Machine(
    Device(), Gpu("NVIDIA H200", "9.0"), Host("1.31.1", ("CUDAExecutionProvider", *CPU), "13.2", frozenset({"trt"}))
)
BOARD = Machine(NANO, Gpu("Orin", "8.7"), Host(None, (), "12.6", frozenset({"trt"})))
DESKTOP = Machine(Device(), Gpu("RTX", "12.0"), Host("1.31.1", CPU, "13.2", frozenset({"trt-rtx"})))


@pytest.mark.parametrize(
    ("machine", "runs"),
    [(LAPTOP, set()), (SERVER, {"gpu", "trt"}), (BOARD, {"trt", "jetson"}), (DESKTOP, {"trt"})],
    ids=["laptop", "server", "board", "desktop"],
)
def test_markers_that_run_are_those_whose_device_is_there(machine: Machine, runs: set[str]) -> None:
    reasons = {marker: reason_to_skip(marker, machine) for marker in NEEDS}
    assert {marker for marker, reason in reasons.items() if reason is None} == runs
    assert all(reason.endswith(".") for reason in reasons.values() if reason)


def test_engines_are_made_for_the_device_that_is_there() -> None:
    assert sealed_target(SERVER).name == "h200"
    assert sealed_target(BOARD).name == "jetson-orin-nano-8gb"
    assert sealed_target(DESKTOP).name == "rtx"


def test_every_marker_of_a_device_is_declared(pytestconfig: pytest.Config) -> None:
    declared = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert set(NEEDS) <= declared
