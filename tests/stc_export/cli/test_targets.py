from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stc_engines import load_targets
from stc_export.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_targets_table_has_a_line_per_target_with_its_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-1] == "evidence"
    for line, target in zip(lines[1:], load_targets(), strict=False):
        assert line.startswith(target.name)
        assert target.evidence.state in line


def test_targets_that_cannot_run_here_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    assert "runs on TensorRT, which is not installed. On a Jetson it comes with JetPack" in capsys.readouterr().out


def test_targets_json_has_every_field_of_the_data(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["targets"]
    assert [row["target"]["name"] for row in rows] == [target.name for target in load_targets()]
    nano = next(row for row in rows if row["target"]["stands_for"] == "jetson")
    assert (nano["runs_here"], nano["target"]["memory_bytes"]) == (False, 8 * 2**30)


def test_fit_has_a_line_per_target_and_says_that_times_are_bounds(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["targets", "--fit", str(tiny_bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(load_targets()) + 1]] == [t.name for t in load_targets()]
    rows = {line.split()[0]: line for line in lines if line}
    assert " yes " in rows["h200"]
    assert rows["h200"].count(" ms") == 4
    assert " ms" not in rows["cuda"]
    assert "bounds, not predictions" in lines[-1]


def test_fit_json_has_every_stage(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--fit", str(tiny_bundle), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["what"] == str(tiny_bundle)
    stages = ["gate", "vit full", "vit selective", "pruner", "prefill", "decode"]
    assert all([stage["stage"] for stage in fit["stages"]] == stages for fit in found["fits"])


def test_fit_of_nothing_is_a_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--fit", "nowhere"]) == 2
    assert '"nowhere" is missing; expected a checkpoint directory' in capsys.readouterr().err
