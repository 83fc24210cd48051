from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stc_export.cli.output import emit, json_text, reserved_stdout, write


@dataclass(frozen=True)
class Inner:
    place: Path


@dataclass(frozen=True)
class Outer:
    rows: tuple[Inner, ...]
    name: str


def test_json_text_paths_are_text_at_any_depth() -> None:
    assert json.loads(json_text(Outer((Inner(Path("a/b")),), "é"))) == {"rows": [{"place": "a/b"}], "name": "é"}


def test_emit_text_ends_with_one_line_break(capsys: pytest.CaptureFixture[str]) -> None:
    emit(Inner(Path()), "text\n\n", as_json=False)
    assert capsys.readouterr().out == "text\n"


def test_reserved_stdout_sends_python_and_native_output_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with reserved_stdout(as_json=True):
        sys.stdout.write("python\n")
        os.write(1, b"native\n")
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
    sys.stdout.write("after\n")
    captured = capfd.readouterr()
    assert captured.out == "after\n"
    assert set(captured.err.split()) == {"python", "native", "child"}


def test_reserved_stdout_without_json_changes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with reserved_stdout(as_json=False):
        sys.stdout.write("python\n")
    assert capfd.readouterr().out == "python\n"


def test_reserved_stdout_is_given_back_after_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="x"), reserved_stdout(as_json=True):
        raise ValueError("x")
    os.write(1, b"back")
    assert capfd.readouterr().out == "back"


def test_write_to_a_reader_that_left_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    moved = []
    monkeypatch.setattr(os, "dup2", lambda _new, old: moved.append(old))
    with pytest.raises(KeyboardInterrupt):
        write("text")
    assert moved == [1]
