"""Settings and clips shared out among processes, each with one thread, so that they do not take each other's cores."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from stc_export.spec.errors import ResourceError, StcError
from stc_export.validate.engines import ENGINES, OpenSession, Original
from stc_export.validate.meter import peak_resident_bytes
from stc_export.validate.rows import SettingClip
from stc_export.validate.tasks import Task
from stc_export.validate.types import Setting, TaskClip

#: Least and most clips of a process: opening a bundle takes as long as a clip or two.
_LEAST_CLIPS, _MOST_CLIPS = 4, 32
#: Receives each clip as it is complete.
OnClip = Callable[[SettingClip], None]


@dataclass(frozen=True)
class Part:
    """What one process does: some clips of a task under one setting.

    Attributes:
        bundle: Directory of the bundle.
        task: The task.
        setting: Policy, and what runs it.
        clips: Clips of the task.
        original: The original model, if the setting runs there.
        first: Directory of the bundle that all others are compared with; ``None``: this one.
    """

    bundle: Path
    task: Task
    setting: Setting
    clips: tuple[TaskClip, ...]
    original: Original | None = None
    first: Path | None = None


def share_out(work: Sequence[Part], jobs: int) -> list[Part]:
    """Cut work into parts that keep ``jobs`` processes busy, in the same order.

    Args:
        work: What is to be done.
        jobs: Processes.
    """
    total = sum(len(part.clips) for part in work)
    size = max(_LEAST_CLIPS, min(_MOST_CLIPS, -(-total // jobs)))
    return [
        replace(part, clips=part.clips[first : first + size])
        for part in work
        for first in range(0, len(part.clips), size)
    ]


def run_parts(parts: Sequence[Part], jobs: int, on_clip: OnClip) -> None:
    """Run parts, at most ``jobs`` at a time. What is running is ended when this ends early.

    Args:
        parts: What to run.
        jobs: Most processes at a time.
        on_clip: Called here with each clip as it is complete.

    Raises:
        StcError: That of a process, or one was killed.
    """
    waiting, running = list(parts), dict[Connection, BaseProcess]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                link, process = _start(waiting.pop(0))
                running[link] = process
            ready = wait(list(running))
            for link in [one for one in running if one in ready]:
                if not _receive(link, on_clip):
                    _finish(running.pop(link))
                    link.close()
    finally:
        for link, process in running.items():
            process.terminate()
            process.join()
            link.close()


def _start(part: Part) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, part), daemon=True)
    with _no_interrupt():
        process.start()
    there.close()  # the end of the process is then the end of the pipe
    return here, process


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, since it goes to all at once: this one ends them."""
    resource_tracker.ensure_running()  # its first start would let interrupts in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(link: Connection, on_clip: OnClip) -> bool:
    """Take what a process sent; False when it has ended."""
    try:
        sent = link.recv()
    except EOFError:
        return False
    if isinstance(sent, Exception):
        raise sent
    on_clip(sent)
    return True


def _finish(process: BaseProcess) -> None:
    process.join()
    code = process.exitcode or 0
    if code < 0:
        raise ResourceError(
            f"A process of the validation was ended by signal {-code}; memory may not suffice.",
            "Run the same command with fewer --jobs: it continues.",
        )
    if code:
        raise RuntimeError("a process of the validation failed; its traceback is above")


def watch_part(part: Part) -> Iterator[SettingClip]:
    """Stream the clips of a part, in this process, with one thread.

    Args:
        part: What to do.

    Raises:
        StcError: Bundle, policy or a clip cannot be used.
    """
    start = ENGINES[part.setting.engine](part.bundle, part.original)
    first = _first(part, start)
    with closing(start(part.setting.policy)) as session:
        for clip in part.clips:
            outcome = part.task.watch(session, clip, first)
            yield SettingClip(part.setting.name, replace(outcome, peak_rss_bytes=peak_resident_bytes()))


def _first(part: Part, start: OpenSession) -> OpenSession:
    """Return what starts streams in the first bundle, which is opened with the first stream if it is another one."""
    place = part.first
    if place is None:
        return start
    opened = cache(lambda: ENGINES["bundle"](place, None))
    return lambda policy: opened()(policy)


def _work(link: Connection, part: Part) -> None:
    try:
        for done in watch_part(part):
            link.send(done)
    except BrokenPipeError:  # whoever started this one is gone
        return
    except (StcError, MemoryError, OSError, ImportError) as error:
        link.send(error)
