"""What a fresh process waits for: ``import stc_runtime``, and a bundle that opens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import Bench

from stc_export.pipeline.bench.series import Measured, Series, compare

#: Programs that print milliseconds, the files that they read behind them.
_PROGRAM = """\
import sys, time
start = time.perf_counter()
{work}
print((time.perf_counter() - start) * 1e3)
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None) or "", getattr(module, "__cached__", None) or "", sep="\\n")
"""
_IMPORT = "import stc_runtime"
_OPEN = "from stc_runtime import StreamSession; StreamSession.open({path!r})"


def measure_startup(bench: Bench) -> Measured:
    """Fresh processes, with the files in the system's cache (warm) and put out of it (cold)."""
    programs = {"import": _IMPORT, "open": _OPEN.format(path=str(bench.opened))}
    repeats = bench.plan.processes
    taken: dict[str, list[float]] = {f"{name}, {state}": [] for name in programs for state in ("warm", "cold")}
    with bench.progress.stage("startup", repeats, "rounds") as advance:
        for work in programs.values():
            _run(work)
        for _ in range(repeats):
            for name, work in programs.items():
                ms, files = _run(work)
                taken[f"{name}, warm"].append(ms)
                _forget([*files, *bench.opened.rglob("*")])
                taken[f"{name}, cold"].append(_run(work)[0])
            advance(1)
    series = {name: Series(name, 0.0, 1, 1, tuple(values)) for name, values in taken.items()}
    rows = [compare(series[f"{name}, cold"], series[f"{name}, warm"]) for name in programs]
    return Measured(tuple(series.values()), tuple(rows), (f'opened: "{bench.opened.name}"',))


def _run(work: str) -> tuple[float, list[Path]]:
    command = [sys.executable, "-c", _PROGRAM.format(work=work)]
    first, *files = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return round(float(first), 4), [Path(file) for file in files if file]


def _forget(files: list[Path]) -> None:
    """Put files out of the system's cache, where it can be asked to."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
