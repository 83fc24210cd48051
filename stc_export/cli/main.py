"""Start of the program: errors and signals become messages and exit codes. Imports typer only when it runs."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stc_export.cli.errors import INTERRUPTED, explain
from stc_export.cli.output import tell
from stc_export.cli.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType
    from typing import NoReturn

    import typer


def stc_export() -> typer.Typer:
    """Return the program ``stc-export``."""
    from stc_export.cli.app import make_app

    return make_app()


def world() -> typer.Typer:
    """Return the program ``python -m stc_export.world``."""
    from stc_export.cli.world import make_app

    return make_app()


def entry(program: Callable[[], typer.Typer] = stc_export) -> NoReturn:
    """Run a program with the arguments of the process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name or an answer may not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    with _second_interrupt_ends():
        code = main(sys.argv[1:], program)
    sys.exit(code)


def main(arguments: Sequence[str], program: Callable[[], typer.Typer] = stc_export) -> int:
    """Run one command line and return its exit code. A bug of ours is raised, with its traceback.

    Args:
        arguments: Command and flags, without the name of the program.
        program: Loads the program.
    """
    try:
        with _termination_as_interrupt():
            from stc_export.cli.app import call

            return call(program(), arguments)
    except KeyboardInterrupt:
        tell("interrupted")
        return INTERRUPTED
    except Exception as error:
        known = explain(error)
        if known is None:
            raise
        tell(f"error: {one_line(known.problem)}\nfix: {one_line(known.fix)}")
        return known.exit_code


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let a request to end the process clean up in the way Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kept = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    ours = [number for number, handler in kept.items() if handler is signal.SIG_DFL]  # nohup ignores SIGHUP
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """End the process at the second Ctrl-C, whatever it is in.

    The first one waits until native code returns, and then for what is cleaned up. What the second one leaves beside an
    output, the next command that writes there removes.
    """
    reader, writer = socket.socketpair()
    os.set_blocking(writer.fileno(), False)
    watcher = threading.Thread(target=_end_at_second, args=(reader,), daemon=True)
    watcher.start()
    kept = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(kept)
        writer.close()
        watcher.join()


def _end_at_second(signals: socket.socket) -> None:
    """Read the numbers of the signals that arrive, until nobody writes them any more."""
    interrupts = 0
    with signals:
        while number := signals.recv(1):
            interrupts += number[0] == signal.SIGINT
            if interrupts == 2:
                tell("interrupted")
                os._exit(INTERRUPTED)
