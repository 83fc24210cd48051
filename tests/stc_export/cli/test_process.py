"""The program as a process: without packages, with other encodings, with a reader that leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
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


def interrupted(process: subprocess.Popen[str], ready: Callable[[], bool], times: int) -> tuple[int, str]:
    """Send Ctrl-C as often as asked once something has happened; return exit code and stderr."""
    while not ready():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # two that arrive at once are one
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def program(*arguments: str | Path) -> subprocess.Popen[str]:
    return started("-m", "stc_export", *map(str, arguments))


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start Python so that Ctrl-C reaches it, even if these tests run where it is ignored, as in the background."""
    kept = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a child inherits what is ignored, and this undoes it
    try:
        return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, kept)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one child")
def test_process_build_interrupted_leaves_nothing_and_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    process = program("build", tiny_checkpoint, "--out", tmp_path / "a.stc")
    code, errors = interrupted(process, lambda: any(tmp_path.iterdir()), times=1)
    assert (code, errors.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes")
def test_process_run_interrupted_while_it_waits_for_a_video_ends_with_one_word(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    process = program("run", tiny_bundle, tmp_path / "pipe", "--ask", "What?", "--silence", "600")
    writers: list[int] = []
    code, errors = interrupted(process, lambda: _opened(tmp_path / "pipe", writers), times=1)
    os.close(writers[0])
    assert (code, errors) == (130, "interrupted\n")


def _opened(pipe: Path, writers: list[int]) -> bool:
    """Whether somebody reads a pipe; keeps it open to write, so that the reader goes on waiting."""
    try:
        writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def test_process_second_interrupt_ends_what_does_not_react_to_the_first() -> None:
    code = (
        "import time\n"
        "from stc_export.cli import main\n"
        "def deaf(*_):\n"
        "    while True:\n"
        "        try:\n"
        "            print('ready', flush=True)\n"
        "            time.sleep(60)\n"
        "        except KeyboardInterrupt:\n"
        "            pass\n"
        "main.main = deaf\n"
        "main.entry()\n"
    )
    process = started("-c", code)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    assert interrupted(process, lambda: True, times=2) == (130, "interrupted\n")
