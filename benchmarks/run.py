"""`make bench`: measure ViT, prefill and whole frames on real layer shapes, and write benchmarks/results/*.json.

    python benchmarks/run.py [--quick] [--threads N] [--only vit|prefill|stream] [--results DIR]

The models have random weights, which changes answers but not times. Raw samples, machine and versions are in the
results. How to read them: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dense import DenseVit
from shapes import FULL, QUICK, Plan, cached_bundle

from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import (
    SCHEMA,
    BenchRecord,
    command_line,
    describe_bundle,
    load_average,
    read_environment,
    write_record,
)
from stc_export.pipeline.bench.series import Measured, Series, compare, compare_interval, interleaved
from stc_export.pipeline.bench.stages import VitPasses, measure_prefill, measure_stream
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.operations import vit_macs
from stc_export.pipeline.types import BenchResult, BenchRow
from stc_export.spec.manifest import Manifest, read_manifest
from stc_export.spec.policy import SELECTIONS, Selection, named_policies
from stc_export.spec.progress import Progress
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.model import Model

RESULTS = Path(__file__).resolve().parent / "results"
WARMUP = 2
RATIO = 0.25
INTERVALS = (2, 4)


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    plan: Plan
    bundle: Path
    threads: int | None
    progress: Progress

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return read_manifest(self.bundle)

    def backend(self) -> OrtBackend:
        """What executes the graphs."""
        return OrtBackend(threads=self.threads)

    def model(self) -> Model:
        """Open the bundle anew: its graphs are closed when the model is dropped."""
        return Model.open(self.bundle, self.backend())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes: checks that everything runs")
    parser.add_argument("--threads", type=int, help="threads inside an operator (default: one per core)")
    parser.add_argument("--only", choices=sorted(PARTS), help="measure one part")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--bundle", type=Path, help="a bundle to measure instead of building one")
    options = parser.parse_args(arguments)
    progress = make_progress()
    plan = QUICK if options.quick else FULL
    bundle = options.bundle or cached_bundle(plan, progress)
    bench = Bench(plan, bundle, options.threads, progress)
    options.results.mkdir(parents=True, exist_ok=True)
    for name, measure in PARTS.items():
        if options.only in (None, name):
            load_before = load_average()
            measured = measure(bench)
            threads = f"-{options.threads}-threads" if options.threads else ""
            out = options.results / f"{name}-{plan.name}{threads}.json"
            write_record(record(bench, measured, load_before), out)
            print(f"\n{out.name}\n\n{markdown(measured.rows)}")
            print("".join(f"\n{note}" for note in measured.notes))
    return 0


def measure_vit(bench: Bench) -> Measured:
    """Each selection at 25 % and its own full pass against the dense ViT, and dense batches against single frames."""
    parts = [_one_selection(bench, selection) for selection in SELECTIONS]
    parts.append(_dense_batch(bench))
    return joined(parts)


def _one_selection(bench: Bench, selection: Selection) -> Measured:
    manifest, vision = bench.manifest, bench.manifest.dims.vision
    passes = VitPasses(bench.model(), manifest.policy, selection, read_scene(None, 5).frames)
    dense = DenseVit(bench.bundle, manifest.dims, bench.backend())
    counts = (vision.tokens, int(vision.tokens * RATIO))
    steps = [dense.step(passes.embeddings, 1), *(passes.step(count) for count in counts)]
    with bench.progress.stage(f"vit {selection}", bench.plan.vit_rounds, "rounds") as advance:
        samples = interleaved(steps, WARMUP, bench.plan.vit_rounds, advance)
    names = (f"dense, beside {selection}", f"{selection} full", f"{selection} 25 %")
    macs = [vit_macs(vision, selection, count) for count in (vision.tokens, *counts)]
    plain, full, selective = (
        Series(name, count, WARMUP, 1, taken) for name, count, taken in zip(names, macs, samples, strict=True)
    )
    rows = [compare(full, plain), compare(selective, plain)]
    rows += [compare_interval(interval, full, selective, plain) for interval in INTERVALS]
    return Measured((plain, full, selective), tuple(rows))


def _dense_batch(bench: Bench) -> Measured:
    manifest, batch = bench.manifest, bench.plan.batch
    embeddings = VitPasses(bench.model(), manifest.policy, "gate", read_scene(None, 5).frames).embeddings
    dense = DenseVit(bench.bundle, manifest.dims, bench.backend())
    rounds = max(2, bench.plan.vit_rounds // 2)
    with bench.progress.stage("vit dense", rounds, "rounds") as advance:
        samples = interleaved([dense.step(embeddings, size) for size in (1, batch)], WARMUP, rounds, advance)
    macs = vit_macs(manifest.dims.vision, "gate", manifest.dims.vision.tokens)
    one, many = (
        Series(name, macs, WARMUP, 1, taken)
        for name, taken in zip(("dense, one frame", f"dense, batches of {batch}"), samples, strict=True)
    )
    return Measured((one, many), (compare(many, one),))


def measure_prefills(bench: Bench) -> Measured:
    """K kept against all M tokens per frame, frame by frame on a growing past."""
    return joined(
        [
            measure_prefill(bench.model(), bench.manifest.policy, frames, bench.plan.repeats, bench.progress)
            for frames in bench.plan.prefill_frames
        ]
    )


def measure_streams(bench: Bench) -> Measured:
    """Whole frames: the default policy and the published one, both against no compression."""
    scene = read_scene(None, bench.plan.stream_frames)
    policies = {name: named_policies()[name] for name in ("adaptive", "paper")}
    return joined(
        [
            measure_stream(bench.model(), policy, name, scene, bench.plan.repeats, bench.progress)
            for name, policy in policies.items()
        ]
    )


#: Name of the result -> what is measured.
PARTS: Mapping[str, Callable[[Bench], Measured]] = {
    "vit": measure_vit,
    "prefill": measure_prefills,
    "stream": measure_streams,
}


def joined(parts: list[Measured]) -> Measured:
    return Measured(
        tuple(series for part in parts for series in part.series),
        tuple(row for part in parts for row in part.rows),
        tuple(note for part in parts for note in part.notes),
    )


def record(bench: Bench, measured: Measured, load_before: float | None) -> BenchRecord:
    manifest = bench.manifest
    return BenchRecord(
        schema=SCHEMA,
        command=command_line(),
        bundle=describe_bundle(bench.bundle, manifest),
        video="generated",
        environment=read_environment(bench.threads, load_before),
        series=measured.series,
        result=BenchResult(bench.bundle.name, manifest.target, measured.rows, measured.notes),
    )


def markdown(rows: tuple[BenchRow, ...]) -> str:
    """Rows as a table for docs/performance.md."""
    header = "| stage | ms | baseline | ms | faster | bound | n |\n|---|---:|---|---:|---:|---:|---:|"
    lines = [
        f"| {row.stage} | {row.p50_ms:.1f} | {row.baseline} | {row.baseline_p50_ms:.1f} | {row.ratio:.2f}x | "
        f"{row.bound:.2f}x | {row.n} |"
        for row in rows
    ]
    return "\n".join([header, *lines])


if __name__ == "__main__":
    raise SystemExit(main())
