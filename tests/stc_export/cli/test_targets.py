from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stc_engines import load_targets
from stc_export.cli.main import main

if TYPE_CHECKING:
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
    assert "cannot run TensorRT engines yet. Its bundle is portable" in capsys.readouterr().out


def test_targets_json_has_every_field_of_the_data(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["targets"]
    assert [row["target"]["name"] for row in rows] == [target.name for target in load_targets()]
    nano = next(row for row in rows if row["target"]["stands_for"] == "jetson")
    assert (nano["runs_here"], nano["target"]["memory_bytes"]) == (False, 8 * 2**30)
