"""A command in a process of its own, whose memory is read all along. Linux only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL_S = 0.05
SAMPLE_S = 2.0


@dataclass(frozen=True)
class Sample:
    """What was read at one moment.

    Attributes:
        seconds: Since the start.
        anonymous_bytes: Memory that is the process's own (RssAnon).
        resident_bytes: With the pages of files that it has mapped.
        done_bytes: What the watcher's measure of progress said.
    """

    seconds: float
    anonymous_bytes: int
    resident_bytes: int
    done_bytes: int


@dataclass(frozen=True)
class Watched:
    """A command that has ended.

    Attributes:
        command: Arguments of stc-export.
        code: Exit code, -9 if it was killed.
        seconds: Wall time.
        peak_anonymous_bytes: Largest RssAnon, read every 50 ms.
        peak_resident_bytes: Largest resident size, as the kernel counts it (VmHWM).
        written_bytes: What it handed to the system to be written, graphs and all.
        samples: Every two seconds, and the last.
        errors: What it said on stderr.
    """

    command: tuple[str, ...]
    code: int
    seconds: float
    peak_anonymous_bytes: int
    peak_resident_bytes: int
    written_bytes: int
    samples: tuple[Sample, ...]
    errors: str


def watch(
    arguments: list[str], measure: Callable[[], int] = lambda: 0, kill_at: float = float("inf")
) -> tuple[Watched, Mapping[str, Any]]:
    """Run ``stc-export ARGUMENTS --json`` and return what was read, and its document.

    Args:
        arguments: Command and flags.
        measure: Progress in bytes; it is killed without warning when this reaches ``kill_at``.
        kill_at: Never, if it is not given.
    """
    command = [sys.executable, "-m", "stc_export", *arguments, "--json"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        start, samples = time.perf_counter(), list[Sample]()
        peak, resident, written = 0, 0, 0
        with subprocess.Popen(command, stdout=out, stderr=errors) as process:
            while process.poll() is None:
                status, done = _status(process.pid), measure()
                peak, resident = max(peak, status.get("RssAnon", 0)), max(resident, status.get("VmHWM", 0))
                written = _written(process.pid) or written
                now = time.perf_counter() - start
                if not samples or now - samples[-1].seconds >= SAMPLE_S or done >= kill_at:
                    samples.append(Sample(round(now, 2), status.get("RssAnon", 0), status.get("VmRSS", 0), done))
                if done >= kill_at:
                    process.kill()
                time.sleep(INTERVAL_S)
        seconds = round(time.perf_counter() - start, 2)
        out.seek(0)
        errors.seek(0)
        told, document = errors.read().decode(), out.read()
    found = Watched(tuple(arguments), process.returncode, seconds, peak, resident, written, tuple(samples), told)
    return found, json.loads(document) if process.returncode == 0 else {}


def _status(pid: int) -> dict[str, int]:
    """Return the sizes in bytes that the kernel states of a process; nothing if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines]
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[-1] == "kB"}


def _written(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar:")), 0)


def niceness() -> int:
    """Return how much this process yields to others."""
    return os.nice(0)
