"""Progress on stderr: one line per finished stage, and on a terminal a bar while it runs."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stc_export.cli.output import tell
from stc_export.cli.text import amount_text, duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

#: Without a terminal, a stage that lasts says so this often.
HEARTBEAT_S = 10.0


class LineProgress:
    """One line per stage when it ends, and one every :data:`HEARTBEAT_S` seconds while it makes progress.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Open a stage; see :class:`stc_export.spec.progress.Progress`."""
        started = said = self._clock()
        done = 0

        def advance(amount: int) -> None:
            nonlocal done, said
            done += amount
            now = self._clock()
            if now - said >= HEARTBEAT_S:
                said = now
                passed, told = now - started, amount_text(done, total, unit)
                self.note(f"{name}: {told}, {passed:.0f} s so far{_left(done, total, passed)}")

        yield advance
        self.note(_finished(name, done, unit, self._clock() - started))

    def note(self, text: str) -> None:
        """Show a line."""
        tell(text)

    def clear(self) -> None:
        """Do nothing: lines are never taken back."""


class BarProgress:
    """A bar per running stage on a terminal, replaced by one line when the stage ends.

    Args:
        stream: The terminal. Colours follow ``NO_COLOR``.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._console = Console(file=stream)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,  # rich would send answers to the console of the bars
        )
        self._drawn = False
        self._interrupted = False

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Open a stage; see :class:`stc_export.spec.progress.Progress`."""
        started = time.monotonic()
        done = 0
        task = self._bars.add_task(name, total=total, amount="")

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            self._draw()
            self._bars.update(task, completed=done, amount=amount_text(done, total, unit))

        self._draw()
        try:
            yield advance
        finally:
            self._bars.remove_task(task)
            if not self._bars.tasks:
                self._stop()
        self.note(_finished(name, done, unit, time.monotonic() - started))

    def note(self, text: str) -> None:
        """Show a line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def clear(self) -> None:
        """Take the bars off the screen, because something else is written there; the next progress draws them."""
        self._interrupted = self._interrupted or self._drawn
        self._stop()

    def _stop(self) -> None:
        if self._drawn:
            self._bars.stop()
            self._drawn = False

    def _draw(self) -> None:
        if self._interrupted:  # what was written in between may have ended within a line
            self._console.print()
            self._interrupted = False
        if not self._drawn:
            self._bars.start()
            self._drawn = True


def make_progress() -> LineProgress | BarProgress:
    """Return bars when stderr is a terminal that can move its cursor, else lines."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return BarProgress(sys.stderr)
    return LineProgress()


def _left(done: int, total: int | None, passed: float) -> str:
    """How long a stage will take from here, at its speed so far."""
    if total is None or not 0 < done < total:
        return ""
    return f", about {duration_text(passed / done * (total - done))} left"


def _finished(name: str, done: int, unit: str, seconds: float) -> str:
    amount = f"{amount_text(done, None, unit)} in " if done else ""
    return f"{name}: {amount}{seconds:.1f} s"
