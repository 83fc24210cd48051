"""``seal``: the graphs of a bundle become engines for this device, checked against the goldens and timed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stc_engines.profiles import profiles_of
from stc_engines.trt.builder import Recipe
from stc_engines.trt.isolate import build_isolated
from stc_engines.trt.product import PRODUCTS
from stc_engines.trt.timing import cache_folder, cache_name
from stc_engines.trt.worker import Job
from stc_export.spec import codec
from stc_export.spec.engines import FOLDER, RECORD_NAME, SCHEMA, CaseTiming, EngineEntry, SealRecord, plan_name
from stc_export.spec.errors import BundleError, ParityError, ResourceError
from stc_export.spec.files import file_digest, new_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stc_engines.table import Target
    from stc_engines.trt.product import ProductName
    from stc_export.spec.engines import Fingerprint
    from stc_export.spec.manifest import GraphEntry, GraphParity, Manifest
    from stc_export.spec.progress import Progress
    from stc_runtime.backends.base import Backend

#: Times that each case is run for its timing, after one run that is not counted.
_TIMED = 20


@dataclass(frozen=True)
class NotChecked:
    """Why engines cannot be checked here: one sentence."""

    reason: str


@dataclass(frozen=True)
class Order:
    """What to seal.

    Attributes:
        root: Directory of the bundle, which was opened and checked.
        manifest: What it says of itself.
        target: Whose memory limits the compiler; the engines are for this machine, whatever it says.
        product: The compiler.
        fingerprint: What the engines will be bound to.
        writer: Program and version, for the record.
    """

    root: Path
    manifest: Manifest
    target: Target
    product: ProductName
    fingerprint: Fingerprint
    writer: str


def seal(order: Order, open_check: Callable[[Path], Backend] | NotChecked, progress: Progress) -> SealRecord:
    """Build all engines of a bundle; they appear together when they are complete and passed the check, or not at all.

    Args:
        order: What to seal.
        open_check: From the folder of the engines to a backend that runs them, or why there is none.
        progress: Receiver of progress.

    Raises:
        BundleError: What is in the place of the engines' folder is none.
        EngineError: The compiler refuses a graph, or crashes.
        ParityError: An engine's numbers are out of tolerance.
        ResourceError: Memory or disk do not suffice, or another process is sealing this bundle.
    """
    engines = order.root / FOLDER
    if engines.is_symlink() or (engines.exists() and not engines.is_dir()):
        raise BundleError(
            f'"{engines}" is a link or a file, expected a folder of the bundle.', "Remove it, and run this again."
        )
    engines.mkdir(exist_ok=True)
    try:
        with _alone(engines), new_directory(engines / order.fingerprint.key) as partial:
            entries = tuple(_build_all(order, partial, progress))
            parity, timings, reason = _check_all(order, partial, open_check, progress)
            record = SealRecord(SCHEMA, order.writer, order.fingerprint, entries, parity, timings, reason)
            (partial / RECORD_NAME).write_text(codec.to_json(record), encoding="utf-8")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f'The disk is full: the engines of "{order.root}" were not written.', "Free space and run it again."
            ) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            engines.rmdir()  # only if nothing is in it
    return record


@contextlib.contextmanager
def _alone(engines: Path) -> Iterator[None]:
    """Two compilers at once would take each other's memory, and falsify each other's timing of kernels."""
    handle = os.open(engines, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(
                f'Another process is sealing "{engines.parent}".', "Wait until it has ended, then run this again."
            ) from error
        yield
    finally:
        os.close(handle)


def _build_all(order: Order, folder: Path, progress: Progress) -> Iterator[EngineEntry]:
    note = _once(progress.note)
    for number, graph in enumerate(order.manifest.graphs, 1):
        with progress.stage(f"engine {number}/{len(order.manifest.graphs)} {graph.role}/{graph.variant}") as advance:
            yield _build(order, graph, folder, advance, note)


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """What is true of one build is mostly true of all: the same line is shown once."""
    said: set[str] = set()

    def tell(text: str) -> None:
        if text not in said:
            said.add(text)
            note(text)

    return tell


def _build(
    order: Order, graph: GraphEntry, folder: Path, advance: Callable[[int], None], note: Callable[[str], None]
) -> EngineEntry:
    profiles = profiles_of(graph, order.manifest)
    plan = folder / plan_name(graph)
    recipe = Recipe(str(order.root / graph.file), profiles, **vars(limits_of(order.target)))
    started = time.perf_counter()
    build_isolated(Job(order.product, recipe, str(plan), timing_file(order)), lambda *_: advance(0), note)
    took = round(time.perf_counter() - started, 3)
    names = tuple(profile.name for profile in profiles)
    return EngineEntry(graph.file, plan.name, names, plan.stat().st_size, file_digest(plan), took)


def timing_file(order: Order) -> str | None:
    """Return the timing cache for an order; ``None`` if its compiler has no use for one, or it has no place."""
    folder = cache_folder(os.environ)
    if folder is None or not PRODUCTS[order.product].times:
        return None
    return str(folder / cache_name(order.fingerprint))


@dataclass(frozen=True)
class Limits:
    """What the compiler may use; ``None``: its own limit."""

    workspace_bytes: int | None = None
    tactic_dram_bytes: int | None = None


def limits_of(target: Target) -> Limits:
    """Return the compiler's limits on a target.

    Where CPU and GPU share their memory, what a kernel is given to try is taken from the system. A quarter of what the
    system leaves is for scratch memory, half for the trial of tactics; the rest holds weights and the compiler itself.
    """
    if not target.memory_unified or target.memory_bytes is None:
        return Limits()
    room = target.memory_bytes - (target.memory_reserved_bytes or 0)
    return Limits(room // 4, room // 2)


def _check_all(
    order: Order, folder: Path, open_check: Callable[[Path], Backend] | NotChecked, progress: Progress
) -> tuple[tuple[GraphParity, ...], tuple[CaseTiming, ...], str | None]:
    if isinstance(open_check, NotChecked):
        return (), (), open_check.reason
    from stc_runtime.goldens import Goldens, run_goldens

    goldens, backend = Goldens.open(order.root), open_check(folder)
    parity: list[GraphParity] = []
    timings: list[CaseTiming] = []
    with progress.stage("check", len(order.manifest.graphs), "engines") as advance:
        for graph in order.manifest.graphs:

            def measure(case: str, run: Callable[[], object], graph: GraphEntry = graph) -> None:
                timings.append(CaseTiming(graph.file, case, _samples_ms(run)))

            parity += run_goldens(goldens, graph.file, backend.open(order.root, graph), measure)
            _refuse(parity)
            advance(1)
    without = goldens.index.without
    reason = f"The build ran only a sample of the layers of {', '.join(without)}." if without else None
    return tuple(parity), tuple(timings), reason


def _refuse(parity: list[GraphParity]) -> None:
    for case in parity:
        for row in case.outputs:
            if not row.passed:
                raise ParityError(
                    f"The engine of {case.graph} ({case.case}) gives another {row.output}: {row.max_rel:.2e} of its "
                    f"largest value, at most {row.tolerance:.0e} is allowed.",
                    "No engine was kept. Please report it with the versions that stc-export doctor shows.",
                )


def _samples_ms(run: Callable[[], object]) -> tuple[float, ...]:
    run()
    samples = []
    for _ in range(_TIMED):
        started = time.perf_counter()
        run()
        samples.append(round(1e3 * (time.perf_counter() - started), 4))
    return tuple(samples)
