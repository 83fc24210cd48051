"""Build a checkpoint of a real size that is killed on the way, continue it, and write down time and memory.

    python benchmarks/export.py --shape llava-onevision-7b|llava-onevision-0.5b [--work DIR] [--kill-at 0.8]
        [--video FILE] [--keep] [--results DIR]

The checkpoint has random weights (make_checkpoint.py). Before the build, ``cp`` copies the same files one after the
other on the same disk: the throughput to compare with. With --video, the bundle then plays it at one frame per second
with two questions. On disk there are at most the checkpoint, the bundle and one copied file. Linux only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_checkpoint import write_random_checkpoint
from shapes import SHAPES
from watched import Watched, niceness, watch

from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import Environment, command_line, load_average, read_environment
from stc_export.pipeline.inspect import inspect
from stc_export.spec import codec
from stc_export.spec.files import write_file
from stc_export.spec.manifest import Manifest, read_manifest

RESULTS = Path(__file__).resolve().parent / "results"
SCHEMA = "stc.export/1"
QUESTIONS = ("How many people are there?", "What happens at the end?")


@dataclass(frozen=True)
class Throughput:
    """Bytes that were read and written in a time."""

    size_bytes: int
    seconds: float
    mb_per_s: float


@dataclass(frozen=True)
class CheckedLayers:
    """The parity of one graph and case: which layers ran, and the largest error relative to the largest value."""

    graph: str
    case: str
    layers: str
    max_rel: float


@dataclass(frozen=True)
class ExportRecord:
    """A result with its evidence.

    Attributes:
        schema: ``stc.export/1``.
        command: What was typed.
        shape: Name of the sizes.
        environment: Where it was measured.
        nice: How much the processes yielded to others.
        copy: ``cp`` of the weight files, until they are on the disk.
        weights: The weights stage of the build until it was killed, and until what it wrote was on the disk.
        killed: The build that was killed.
        continued: The build after it.
        kept_bytes: Weights that the second build did not write again.
        stages_s: Stages of the second build.
        bundle_bytes: All files of the bundle; each agrees with its digest.
        weight_bytes: Weight files alone.
        parity: What was compared.
        planned: What ``build --dry-run`` says of a session, in bytes.
        run: The video, if there was one.
        run_document: What ``run --json`` printed.
    """

    schema: str
    command: str
    shape: str
    environment: Environment
    nice: int
    copy: Throughput
    weights: Throughput
    killed: Watched
    continued: Watched
    kept_bytes: int
    stages_s: Mapping[str, float]
    bundle_bytes: int
    weight_bytes: int
    parity: tuple[CheckedLayers, ...]
    planned: Mapping[str, int]
    run: Watched | None
    run_document: Any


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True, help="which published sizes")
    parser.add_argument("--work", type=Path, default=Path(), help="folder with room for checkpoint and bundle")
    parser.add_argument("--kill-at", type=float, default=0.8, help="share of the weights after which it is killed")
    parser.add_argument("--video", type=Path, help="a clip for the bundle to run on")
    parser.add_argument("--keep", action="store_true", help="leave checkpoint and bundle there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    record = measure(options)
    out = options.results / f"export-{options.shape.removeprefix('llava-onevision-')}.json"
    write_file(codec.to_json(record).encode(), out)
    print(f"\n{out}\n\n{markdown(record)}")
    return 0


def measure(options: argparse.Namespace) -> ExportRecord:
    checkpoint, bundle = options.work / options.shape, options.work / f"{options.shape}.stc"
    write_random_checkpoint(checkpoint, SHAPES[options.shape], 0, make_progress())
    load_before = load_average()
    copied = _copy(sorted(checkpoint.glob("*.safetensors")), options.work)
    command = ["build", str(checkpoint), "--precision", "fp16", "--out", str(bundle)]
    _, plan = watch([*command, "--dry-run"])
    limit = options.kill_at * plan["size"]["disk_bytes"]
    killed, _ = watch(command, lambda: _partial_bytes(bundle), limit)
    flush_s = _flush()
    kept = killed.samples[-1].done_bytes
    continued, built = watch(command, lambda: _partial_bytes(bundle))
    if continued.code:
        raise SystemExit(continued.errors)
    manifest, found = read_manifest(bundle), inspect(bundle)
    if not found.ok:
        raise SystemExit(f"the bundle is not what was built: {found.altered} {found.missing}")
    run, document = _run(bundle, options.video) if options.video else (None, None)
    if not options.keep:
        shutil.rmtree(checkpoint)
        shutil.rmtree(bundle)
    weights = sum(entry.size_bytes for entry in manifest.files if entry.path.endswith(".weights"))
    return ExportRecord(
        schema=SCHEMA,
        command=command_line(),
        shape=options.shape,
        environment=read_environment(None, load_before),
        nice=niceness(),
        copy=copied,
        weights=_throughput(killed, flush_s),
        killed=killed,
        continued=continued,
        kept_bytes=kept,
        stages_s={stage["name"]: stage["seconds"] for stage in built["stages"]},
        bundle_bytes=found.total_bytes,
        weight_bytes=weights,
        parity=_parity(manifest),
        planned={**plan["size"], "session_bytes": plan["fit"]["session_bytes"]},
        run=run,
        run_document=document,
    )


def _copy(files: list[Path], folder: Path) -> Throughput:
    """Copy each file until it is on the disk, and remove the copy again; removing does not count."""
    seconds, size = 0.0, 0
    target = folder / "copied.partial"
    for file in files:
        start = time.perf_counter()
        subprocess.run(["cp", str(file), str(target)], check=True)
        os.sync()
        seconds += time.perf_counter() - start
        size += target.stat().st_size
        target.unlink()
    return Throughput(size, round(seconds, 2), round(size / seconds / 1e6, 1))


def _partial_bytes(bundle: Path) -> int:
    """Return the size of the weights that a build has written so far."""
    files = bundle.parent.glob(f".{bundle.name}.partial-*/graphs/*.weights")
    try:
        return sum(file.stat().st_size for file in files)
    except FileNotFoundError:  # renamed while it was looked at
        return 0


def _flush() -> float:
    """Wait until all that was written is on the disk; returns the seconds that it took."""
    start = time.perf_counter()
    os.sync()
    return time.perf_counter() - start


def _throughput(killed: Watched, flush_s: float) -> Throughput:
    """Return how fast weights were written: from the last sample without any to the kill, and then to the disk."""
    first = max(sample.seconds for sample in killed.samples if not sample.done_bytes)
    last = killed.samples[-1]
    seconds = last.seconds - first + flush_s
    return Throughput(last.done_bytes, round(seconds, 2), round(last.done_bytes / seconds / 1e6, 1))


def _parity(manifest: Manifest) -> tuple[CheckedLayers, ...]:
    return tuple(
        CheckedLayers(case.graph, case.case, case.layers, max(row.max_rel for row in case.outputs))
        for case in manifest.parity
    )


def _run(bundle: Path, video: Path) -> tuple[Watched, Any]:
    asked = ["--ask", QUESTIONS[0], "--at", "5", "--ask", QUESTIONS[1]]
    found, document = watch(["run", str(bundle), str(video), "--fps", "1", "--max-tokens", "16", *asked])
    if found.code:
        raise SystemExit(found.errors)
    return found, document


def markdown(record: ExportRecord) -> str:
    """The record as a table for docs/performance.md."""
    worst = max(row.max_rel for row in record.parity)
    rows = [
        ("weights written", f"{record.weight_bytes / 1e9:.2f} GB"),
        ("`cp` of the checkpoint", f"{record.copy.mb_per_s:.0f} MB/s"),
        ("weights of the build", f"{record.weights.mb_per_s:.0f} MB/s"),
        ("killed at, kept", f"{record.kept_bytes / 1e9:.2f} GB"),
        ("written by the build after it", f"{record.continued.written_bytes / 1e9:.2f} GB"),
        ("peak of anonymous memory, killed", f"{record.killed.peak_anonymous_bytes / 1e9:.2f} GB"),
        ("peak of anonymous memory, continued", f"{record.continued.peak_anonymous_bytes / 1e9:.2f} GB"),
        *((f"{name}, continued", f"{seconds:.0f} s") for name, seconds in record.stages_s.items()),
        ("largest relative error", f"{worst:.1e}"),
    ]
    return "\n".join(["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    raise SystemExit(main())
