from __future__ import annotations

import errno
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stc_export import __version__
from stc_export.cli.main import main
from stc_export.spec.errors import ParityError, StcError

if TYPE_CHECKING:
    from tests.stc_export.cli.results import FakePipeline

BUILD = ["build", "demo"]
COMMANDS = ["build", "run", "bench", "validate", "calibrate", "inspect", "check", "seal", "targets", "doctor"]
EXIT_CODES = {0, 1, 2, 3, 4, 130}


def test_main_version_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stc-export {__version__}\n"


def test_main_without_command_shows_the_help_on_stderr_and_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: stc-export" in captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example:\n    stc-export {command}" in text
    assert "--json" in text


def test_help_lists_the_commands_of_this_version_and_an_example_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    text = capsys.readouterr().out
    listed = [line.split()[0] for line in text.split("Commands:\n")[1].split("\n\n")[0].splitlines()]
    assert listed == COMMANDS
    assert all(f"\n    stc-export {command}" in text for command in listed)
    assert "..." not in text.split("Commands:\n")[1]


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["biuld"], "No such command 'biuld'", "See stc-export --help."),
        (["build"], "Missing argument 'MODEL'", "See stc-export build --help."),
        (["build", "demo", "--frobnicate"], "No such option", "See stc-export build --help."),
        (["bench", "x.stc", "--frames", "many"], "--frames", "See stc-export bench --help."),
        (["run", "a.stc", "v.mp4"], "Missing option '--ask'", "See stc-export run --help."),
        (["validate", "a.stc", "--report", "out"], "Missing option '--task'", "See stc-export validate --help."),
        (["validate", "a.stc", "--task", "demo"], "Missing option '--report'", "See stc-export validate --help."),
    ],
)
def test_wrong_use_exits_2_with_problem_and_fix(
    arguments: list[str], problem: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert first.startswith("error: ")
    assert problem in first
    assert second == f"fix: {fix}"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (ParityError("The graph is off.", "Report it."), 1, "error: The graph is off.\nfix: Report it.\n"),
        (MemoryError(), 4, "error: There is not enough memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 4, "error: There is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 4, "error: There is not enough memory"),
        (ImportError("x.so: failed to map segment from shared object"), 4, "error: There is not enough memory"),
        (OSError(errno.ENOSPC, "No space left", "demo.stc/w.bin"), 4, 'error: The disk is full while writing "demo.st'),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, 'error: "/x" cannot be used: Permission denied.'),
        (ModuleNotFoundError("no", name="torch.nn"), 3, 'error: This command needs the Python package "torch"'),
        (ModuleNotFoundError("no", name="av"), 3, 'fix: Run pip install "stc-export[video]".\n'),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_failures_have_their_exit_code_and_leave_stdout_empty(
    pipeline: FakePipeline,
    failure: BaseException,
    code: int,
    text: str,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline.failure = failure
    assert main([*BUILD, *(["--json"] * as_json)]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert "error:" not in captured.out


def test_failure_that_wraps_a_lack_of_memory_is_one(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.failure = RuntimeError("Failed to export the model.")
    pipeline.failure.__cause__ = MemoryError()
    assert main(BUILD) == 4
    assert "error: There is not enough memory" in capsys.readouterr().err


def test_failure_text_stays_on_its_line_without_markup_or_controls(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.failure = StcError("Bad \x1b[31m[bold]name[/bold]\nsecond line", "Do [this].")
    assert main(BUILD) == 2
    assert "error: Bad [31m[bold]name[/bold] second line\nfix: Do [this].\n" in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), ModuleNotFoundError("no", name="stc_export.nothing")])
def test_bug_keeps_its_traceback(pipeline: FakePipeline, bug: Exception) -> None:
    pipeline.failure = bug
    with pytest.raises(type(bug)):
        main(BUILD)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_termination_signal_cleans_up_and_exits_130(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    cleaned = []
    number = getattr(signal, name)
    kept = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)

    def run_build(_request: object, _progress: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(sys.modules["stc_export.pipeline.build"], "run_build", run_build)
    try:
        assert main(BUILD) == 130
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, kept)
    assert cleaned == [True]
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_ignored_hangup_stays_ignored_while_a_command_runs(
    pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(
        sys.modules["stc_export.pipeline.build"],
        "plan_build",
        lambda _request: seen.append(signal.getsignal(signal.SIGHUP)) or pipeline.plan,
    )
    try:
        assert main([*BUILD, "--dry-run"]) == 0
    finally:
        signal.signal(signal.SIGHUP, kept)
    assert seen == [signal.SIG_IGN]


FLAGS = ("--ask", "--at", "--json", "--out", "--target", "--policy", "--fps", "--threads", "--frames", "--precision")
VALUES = ("build", "run", "bench", "inspect", "targets", "demo", "nowhere.stc", "nan", "-1", "0", "cpu", "off", "--")
WORDS = st.sampled_from(FLAGS + VALUES)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(WORDS | st.text(max_size=5), max_size=7))
def test_any_command_line_ends_with_a_known_exit_code(pipeline: FakePipeline, arguments: list[str]) -> None:
    assert main(arguments) in EXIT_CODES
