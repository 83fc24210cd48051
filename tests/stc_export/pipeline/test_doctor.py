from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stc_engines import Host
from stc_export.pipeline.doctor import check_extras, examine, metadata_requirements

if TYPE_CHECKING:
    from pathlib import Path

REQUIREMENTS = (
    "numpy>=1.24",
    "av>=12; extra == 'video'",
    'onnxruntime>=1.20; extra == "ort"',
    "onnxruntime-gpu>=1.20; extra == 'cuda'",
    "torch>=2.9; extra == 'export'",
    "av>=12; extra == 'export'",
    "pytest; extra == 'dev'",
)


def extras_with(**versions: str) -> dict[str, tuple[tuple[str, ...], str | None]]:
    installed = {name.replace("_", "-"): version for name, version in versions.items()}
    return {state.name: (state.missing, state.command) for state in check_extras(REQUIREMENTS, installed.get)}


def test_extras_nothing_installed_gives_a_command_for_each() -> None:
    found = extras_with()
    assert set(found) == {"video", "ort", "cuda", "export", "dev"}
    assert found["video"] == (("av (needs >=12)",), 'pip install "stc-export[video]"')
    assert found["export"][0] == ("torch (needs >=2.9)", "av (needs >=12)")
    assert found["dev"][0] == ("pytest",)


def test_extras_all_installed_are_complete() -> None:
    found = extras_with(av="12.0", onnxruntime="1.31.1", onnxruntime_gpu="1.20.0", torch="2.13.0+cpu", pytest="9")
    assert all(state == ((), None) for state in found.values())


def test_extras_old_version_compares_numbers_not_text() -> None:
    assert extras_with(av="9.2.0")["video"][0] == ("av 9.2.0 (needs >=12)",)
    assert extras_with(onnxruntime="1.9.0")["ort"][0] == ("onnxruntime 1.9.0 (needs >=1.20)",)


def test_extras_gpu_build_counts_as_onnxruntime_but_not_the_reverse() -> None:
    found = extras_with(onnxruntime_gpu="1.22.0")
    assert found["ort"] == ((), None)
    assert extras_with(onnxruntime="1.22.0")["cuda"][1] == 'pip install "stc-export[cuda]"'


def test_requirements_of_this_distribution_name_each_extra_of_the_device_side() -> None:
    names = {state.name for state in check_extras(metadata_requirements(), lambda _name: None)}
    assert {"ort", "cuda", "text", "video", "cli", "export", "dev"} <= names


def test_examine_without_onnxruntime_says_what_to_install() -> None:
    result = examine(host=Host(None, (), None))
    assert (result.problem, result.fix) == (
        "No backend is installed: ONNX Runtime cannot be imported.",
        'Run pip install "stc-export[ort]".',
    )


def test_examine_with_onnxruntime_has_no_problem() -> None:
    result = examine(host=Host("1.31.1", ("CPUExecutionProvider",), "13.2"))
    assert (result.problem, result.fix, result.cuda_driver) == (None, None, "13.2")
    assert result.cores >= 1
    assert result.disk_free_bytes > 0


def test_examine_reads_the_machine_below_the_given_root(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Test CPU 9000\n", encoding="utf-8")
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemAvailable:  400 kB\n", encoding="utf-8")
    result = examine(tmp_path, Host("1.31.1", ("CPUExecutionProvider",), None))
    assert result.cpu == "Test CPU 9000"
    assert (result.device.memory_bytes, result.device.memory_available_bytes) == (1024000, 409600)


@pytest.mark.parametrize("both", [True, False])
def test_examine_two_builds_of_onnxruntime_gives_a_note(monkeypatch: pytest.MonkeyPatch, both: bool) -> None:
    versions = {"numpy": "2.4.6", "onnxruntime": "1.31.1"} | ({"onnxruntime-gpu": "1.31.1"} if both else {})
    monkeypatch.setattr("stc_export.pipeline.doctor.installed_version", versions.get)
    notes = examine(host=Host("1.31.1", ("CPUExecutionProvider",), None)).notes
    assert [("overwrite each other" in note) for note in notes] == [True] * both
