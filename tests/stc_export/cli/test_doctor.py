from __future__ import annotations

import json
import platform
from dataclasses import replace

import pytest

from stc_engines import Device, Host
from stc_export.cli.doctor import result_text
from stc_export.cli.main import main
from stc_export.pipeline.doctor import ExtraState, examine

READY = Host("1.31.1", ("CPUExecutionProvider",), None)


def test_doctor_here_is_ready_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"python           {platform.python_version()}" in text
    assert text.endswith("The runtime can run here.\n")


def test_doctor_without_backend_prints_the_report_and_exits_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = examine(host=Host(None, (), None))
    monkeypatch.setattr("stc_export.cli.doctor.examine", lambda: broken)
    assert main(["doctor"]) == 3
    captured = capsys.readouterr()
    assert "cpu" in captured.out
    assert captured.err.endswith('fix: Run pip install "stc-export[ort]".\n')


def test_doctor_json_is_one_document_also_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = examine(host=Host(None, (), None))
    monkeypatch.setattr("stc_export.cli.doctor.examine", lambda: broken)
    assert main(["doctor", "--json"]) == 3
    document = json.loads(capfd.readouterr().out)
    assert document["problem"].startswith("No backend is installed")


def test_doctor_on_a_jetson_names_board_and_jetpack() -> None:
    device = Device("jetson", "NVIDIA Jetson Orin Nano", "36.4.3", "6.2", 8_000_000_000, 5_000_000_000)
    text = result_text(replace(examine(host=READY), device=device))
    assert "board         NVIDIA Jetson Orin Nano\n" in text
    assert "Jetson Linux  36.4.3 (JetPack 6.2)" in text
    assert "8 GB, 5 GB available" in text


def test_doctor_incomplete_extra_shows_the_command() -> None:
    extra = ExtraState("video", ("av (needs >=12)",), 'pip install "stc-export[video]"')
    text = result_text(replace(examine(host=READY), extras=(extra,)))
    assert 'video  av (needs >=12)  pip install "stc-export[video]"' in text
