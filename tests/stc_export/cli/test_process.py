"""The program as a process: without packages, with other encodings, with a reader that leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
sys.argv = ["stc-export", *{arguments!r}]
from stc_export.cli.main import entry
"""
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "av", "tokenizers", "numpy", "safetensors"}


def start(names: set[str], arguments: list[str], after: str = "entry()") -> subprocess.CompletedProcess[str]:
    code = REFUSE.format(names=names, arguments=arguments) + after
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["typer", "rich", "pydantic"])
def test_process_without_typer_names_the_extra_and_exits_3(missing: str) -> None:
    done = start({missing}, ["targets", "--json"]) if missing == "typer" else start({missing, "typer"}, ["--help"])
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == 'fix: Run pip install "stc-export[cli]".'
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["build", "--help"], ["run", "--help"], ["--version"], ["targets"]])
def test_process_help_and_targets_need_the_cli_extra_only(arguments: list[str]) -> None:
    done = start(HEAVY, arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_process_doctor_without_backend_reports_and_exits_3() -> None:
    done = start(HEAVY, ["doctor"])
    assert done.returncode == 3
    assert "extra" in done.stdout
    assert done.stderr.startswith("error: No backend is installed")


def test_process_build_without_torch_names_the_export_extra() -> None:
    done = start({"torch"}, ["build", "demo", "--dry-run"])
    assert (done.returncode, done.stdout) == (3, "")
    assert 'pip install "stc-export[export]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_process_help_imports_no_package_that_works() -> None:
    found = "sorted({'numpy', 'torch', 'onnxruntime'} & set(sys.modules))"
    after = f"try:\n    entry()\nfinally:\n    print({found}, file=sys.stderr)"
    assert start(set(), ["--help"], after).stderr.strip() == "[]"


def test_process_odd_file_name_and_ascii_terminal_end_without_traceback(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xe9 \xc3\xa9.stc"
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"stc_export", b"inspect", name],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: There is no bundle")


def test_process_reader_that_leaves_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "stc_export", "targets"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (process.returncode, process.stderr) == (130, "interrupted\n")
