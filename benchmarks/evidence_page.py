"""What `make evidence` found on a device, as a record and as a page of the documentation."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from stc_engines.detect import Gpu
from stc_export.cli.text import bytes_text, ms_text
from stc_export.pipeline.bench.record import BenchRecord, Environment
from stc_export.spec.engines import SealRecord
from stc_export.spec.manifest import GraphParity

SCHEMA = "stc.evidence/1"
Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class DeviceTest:
    """A test of tests/device.

    Attributes:
        name: File and name.
        outcome: What became of it.
        needs: The marker of the device that it needs; ``None``: it runs everywhere.
        reason: Why it was skipped, or what failed.
    """

    name: str
    outcome: Outcome
    needs: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What was done with a target on the machine that it is.

    Attributes:
        schema: ``stc.evidence/1``.
        date: Day as ``YYYY-MM-DD``.
        target: Its name.
        gpu: The GPU, if there is one.
        cuda_driver: CUDA version of its driver.
        l4t: Release of Jetson Linux.
        jetpack: JetPack of that release.
        tests: What became of each test for devices.
        parity: The graphs of the demo bundle in ONNX Runtime on the CPU against PyTorch.
        sealed: Its engines; ``None`` if the target has none.
        bench: Times of the demo bundle, with machine and versions.
    """

    schema: str
    date: str
    target: str
    gpu: Gpu | None
    cuda_driver: str | None
    l4t: str | None
    jetpack: str | None
    tests: tuple[DeviceTest, ...]
    parity: tuple[GraphParity, ...]
    sealed: SealRecord | None
    bench: BenchRecord


def page(evidence: Evidence) -> str:
    """Return the page docs/targets/<target>.md."""
    name, bundle = evidence.target, evidence.bench.bundle
    parts = [
        f"# {name}",
        (
            f"Written by `make evidence TARGET={name}`; run it again rather than edit this page. All of it was "
            f"measured on one machine on {evidence.date}, with the demo model in {bundle.precision}; nothing is from "
            f"a document. Every sample: [raw results](../../benchmarks/results/target-{name}.json)."
        ),
        "## Machine",
        _machine(evidence),
        "## Tests",
        _tests(evidence.tests),
        "## Parity of the graphs",
        "In ONNX Runtime on the CPU against PyTorch, when the bundle was built:",
        _parity(evidence.parity),
        "## Engines",
        _engines(evidence.sealed),
        "## Latency",
        _latency(evidence.bench),
        "## What the compression saves",
        _savings(evidence.bench),
        "## Not run",
        _not_run(evidence),
    ]
    return "\n\n".join(parts) + "\n"


def percentiles(samples_ms: tuple[float, ...]) -> tuple[float, float]:
    """Return the median and the 95th percentile (the smallest sample that 95 % do not exceed)."""
    ordered = sorted(samples_ms)
    return statistics.median(ordered), ordered[-(-95 * len(ordered) // 100) - 1]


def _table(header: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table; columns whose title ends in a colon hold numbers."""
    titles = header.split(" | ")
    rule = "|".join("---:" if title.endswith(":") else "---" for title in titles)
    lines = [f"| {' | '.join(title.removesuffix(':') for title in titles)} |", f"|{rule}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _machine(evidence: Evidence) -> str:
    found = evidence.bench.environment
    load = f"{found.load_before} before the measurements, {found.load_after} after them"
    rows = {
        "CPU": f"{found.cpu}, {found.cores} cores, {found.threads} threads used",
        "clock of the first core": f"{found.clock_mhz:.0f} MHz" if found.clock_mhz else None,
        "memory": bytes_text(found.memory_bytes) if found.memory_bytes else None,
        "board": found.board,
        "Jetson Linux": f"{evidence.l4t} (JetPack {evidence.jetpack or 'unknown'})" if evidence.l4t else None,
        "GPU": f"{evidence.gpu.name}, SM {evidence.gpu.sm}" if evidence.gpu else None,
        "CUDA of the driver": evidence.cuda_driver,
        "system": found.system,
        "load": load if found.load_before is not None else None,
        "Python, numpy": f"{found.python}, {found.numpy}",
        "ONNX Runtime": found.onnxruntime,
        "compiler": _compiler(evidence.sealed),
        "stc-export": found.stc_export,
    }
    return _table("what | here", [(what, here or "not there, or not readable") for what, here in rows.items()])


def _compiler(sealed: SealRecord | None) -> str | None:
    return f"{sealed.fingerprint.product} {sealed.fingerprint.version}" if sealed else None


def _tests(tests: tuple[DeviceTest, ...]) -> str:
    counts = {outcome: sum(test.outcome == outcome for test in tests) for outcome in ("passed", "failed", "skipped")}
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    intro = (
        f"`tests/device`: {said}. Those that need no device run everywhere: on the CPU, on a stand-in for TensorRT, "
        "or on files as a board has them."
    )
    rows = [(f"`{test.name}`", test.needs or "-", test.outcome) for test in tests]
    return f"{intro}\n\n{_table('test | needs | outcome', rows)}"


def _parity(parity: tuple[GraphParity, ...]) -> str:
    rows = [
        (f"`{case.graph}`", case.case, f"{worst.max_rel:.1e}", f"{worst.tolerance:.0e}", _verdict(case))
        for case in parity
        for worst in [max(case.outputs, key=lambda row: row.max_rel / row.tolerance if row.tolerance else row.max_rel)]
    ]
    return _table("graph | case | largest error: | allowed: | parity", rows)


def _verdict(case: GraphParity) -> str:
    return "ok" if case.passed else "failed"


def _engines(sealed: SealRecord | None) -> str:
    if sealed is None:
        return "This target has none: ONNX Runtime runs the graphs as they are."
    rows = [
        (f"`{entry.graph}`", ", ".join(entry.profiles) or "-", bytes_text(entry.size_bytes), f"{entry.build_s:.1f} s")
        for entry in sealed.engines
    ]
    parts = [_table("engine of | profiles | size: | built in:", rows)]
    if sealed.parity:
        parts += ["Against the goldens:", _parity(sealed.parity)]
    if sealed.timings:
        timed = [(f"`{row.graph}`", row.case, *_times(row.samples_ms)) for row in sealed.timings]
        parts += [
            "Copies to and from the device included:",
            _table("engine of | case | p50: | p95: | samples:", timed),
        ]
    return "\n\n".join(parts)


def _times(samples_ms: tuple[float, ...]) -> tuple[str, str, str]:
    p50, p95 = percentiles(samples_ms)
    return ms_text(p50), ms_text(p95), str(len(samples_ms))


def _latency(bench: BenchRecord) -> str:
    rows = [(series.name, *_times(series.samples_ms)) for series in bench.series]
    intro = f"Per frame, on a {bench.video} video.{_busy(bench.environment)}"
    return f"{intro}\n\n{_table('stage | p50: | p95: | samples:', rows)}"


def _busy(machine: Environment) -> str:
    """The load before the measurements is that of others; from half of the cores on, it changes times."""
    if machine.load_before is None or machine.load_before < machine.cores / 2:
        return ""
    return (
        f" **The machine was busy with other work** (load {machine.load_before} on {machine.cores} cores): times are "
        "longer than on a quiet one, and a ratio can be off, even above its bound."
    )


def _savings(bench: BenchRecord) -> str:
    rows = [
        (row.stage, row.baseline, f"{row.ratio:.2f}x", "-" if row.bound is None else f"{row.bound:.2f}x", str(row.n))
        for row in bench.result.rows
    ]
    intro = (
        "Ratios of medians; stage and baseline took turns, sample by sample. The bound is the ratio of their "
        "multiply-accumulates. A value is a frame, or the mean over the frames of a pass."
    )
    return f"{intro}\n\n{_table('stage | baseline | faster: | bound: | values:', rows)}"


def _not_run(evidence: Evidence) -> str:
    lines = ["Any model but the demo model, and any precision but that above."]
    lines += ["Engines: the target has none."] if evidence.sealed is None else []
    lines += [evidence.sealed.not_checked] if evidence.sealed and evidence.sealed.not_checked else []
    skipped: dict[str, int] = {}
    for test in evidence.tests:
        if test.outcome == "skipped":
            skipped[test.reason or "no reason"] = skipped.get(test.reason or "no reason", 0) + 1
    lines += [f"{count} of the tests above: {reason}" for reason, count in skipped.items()]
    lines += [f"In `bench`: {note}." for note in evidence.bench.result.notes if "not measured" in note]
    lines += ["Streams of hours, and what they need of power."]
    return "\n".join(f"- {line}" for line in lines)
