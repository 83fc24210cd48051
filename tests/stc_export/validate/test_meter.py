"""Memory and energy, read from files as Linux has them."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from stc_export.validate.meter import EnergyMeter, NoMeter, peak_resident_bytes


def write_counter(root: Path, name: str, kind: str, used: int) -> None:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("name", kind), ("energy_uj", used), ("max_energy_range_uj", 10_000_000)):
        (folder / file).write_text(f"{text}\n")


def write_counters(root: Path, first: int, second: int) -> None:
    write_counter(root, "intel-rapl:0", "package-0", first)
    write_counter(root, "intel-rapl:1", "package-1", second)
    write_counter(root, "intel-rapl:0:0", "core", first * 2)
    write_counter(root, "intel-rapl:2", "psys", first * 3)


def test_energy_is_that_of_whole_processors_and_counters_may_begin_again(tmp_path: Path) -> None:
    write_counters(tmp_path, 9_000_000, 0)
    meter = EnergyMeter(tmp_path)
    for first, second in ((9_500_000, 1_000_000), (500_000, 3_000_000)):
        write_counters(tmp_path, first, second)
        meter.clip_done()
    found = meter.read()
    assert (found.status, found.clips, found.reason) == ("measured", 2, None)
    assert found.joules == pytest.approx(1.5 + 3.0)


@pytest.mark.parametrize("content", ["", "many", "-"])
def test_energy_that_cannot_be_read_is_not_run_with_the_reason(tmp_path: Path, content: str) -> None:
    write_counter(tmp_path, "intel-rapl:0", "package-0", 5)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text(content)
    meter = EnergyMeter(tmp_path)
    meter.clip_done()
    found = meter.read()
    assert (found.status, found.joules) == ("not_run", None)
    assert found.reason == "this machine shows no energy counter of its processors to this user"


def test_energy_of_a_counter_that_is_gone_is_not_run(tmp_path: Path) -> None:
    write_counters(tmp_path, 1, 2)
    meter = EnergyMeter(tmp_path)
    (tmp_path / "sys/class/powercap/intel-rapl:1/energy_uj").unlink()
    meter.clip_done()
    meter.clip_done()
    assert (meter.read().status, meter.read().reason) == ("not_run", "an energy counter could not be read any more")


def test_energy_without_a_clip_is_not_run(tmp_path: Path) -> None:
    write_counters(tmp_path, 1, 2)
    assert EnergyMeter(tmp_path).read().reason == "no clip was left to stream"
    assert NoMeter("elsewhere").read().reason == "elsewhere"


def test_peak_memory_grows_with_what_is_held_and_stays(tmp_path: Path) -> None:
    before = peak_resident_bytes()
    assert before is not None
    np.ones(before, np.uint8)  # as much again, which is given back at once
    after = peak_resident_bytes()
    assert after is not None
    assert after > before * 1.2
    assert after <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**20


def test_peak_memory_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert peak_resident_bytes(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\n")
    assert peak_resident_bytes(tmp_path) == 2 * 1024 * 1024
