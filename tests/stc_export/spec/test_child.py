"""A process of ours takes no module from the current directory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from stc_export.spec.child import module_command


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(module_command("json.tool"), input=b"[1]", capture_output=True, check=True)
    assert json.loads(done.stdout) == [1]


def test_module_of_the_current_directory_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "runpy", "argparse"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    subprocess.run(module_command("json.tool"), input=b"[1]", capture_output=True, check=True)
    assert not (tmp_path / "ran").exists()
