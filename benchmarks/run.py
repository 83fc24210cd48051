"""`make bench`: measure on real layer shapes, write benchmarks/results/*.json and the tables of docs/performance.md.

    python benchmarks/run.py [--quick] [--threads N] [--only PART] [--results DIR]

The models have random weights, which changes answers but not times. Raw samples, machine and versions are in the
results. How to read them: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import Bench, joined, record
from decode import measure_decode
from dense import DenseVit
from encoders import measure_encoders
from host import measure_host
from shapes import CACHE, FULL, QUICK, cached_bundle, demo_bundle
from startup import measure_startup
from tables import PAGE, RESULTS, markdown, write_tables

from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import load_average, write_record
from stc_export.pipeline.bench.series import Measured, Series, compare, compare_interval, interleaved
from stc_export.pipeline.bench.stages import VitPasses, measure_prefill, measure_stream
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.operations import vit_macs
from stc_export.spec.policy import SELECTIONS, Selection, named_policies

WARMUP = 2
RATIO = 0.25
INTERVALS = (2, 4)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes: checks that everything runs")
    parser.add_argument("--threads", type=int, help="threads inside an operator (default: one per core)")
    parser.add_argument("--only", choices=sorted(PARTS), help="measure one part")
    parser.add_argument("--results", type=Path, help="folder for the results")
    parser.add_argument("--bundle", type=Path, help="a bundle to measure instead of building one")
    options = parser.parse_args(arguments)
    progress = make_progress()
    plan = QUICK if options.quick else FULL
    bundle = options.bundle or cached_bundle(plan, progress)
    bench = Bench(plan, bundle, options.bundle or demo_bundle(progress), options.threads, progress)
    results = options.results or (CACHE / "results" if options.quick else RESULTS)
    results.mkdir(parents=True, exist_ok=True)
    for name, measure in PARTS.items():
        if options.only in (None, name):
            load_before = load_average()
            measured = measure(bench)
            threads = f"-{options.threads}-threads" if options.threads else ""
            out = results / f"{name}-{plan.name}{threads}.json"
            write_record(record(bench, measured, load_before), out)
            print(f"\n{out.name}\n\n{markdown(measured.rows)}")
            print("".join(f"\n{note}" for note in measured.notes))
    if results == RESULTS:
        write_tables(RESULTS, PAGE)
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
            measure_prefill(bench.model(), bench.manifest.policy, frames, passes, bench.progress)
            for frames, passes in bench.plan.prefill
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
    "decode": measure_decode,
    "encoders": measure_encoders,
    "host": measure_host,
    "startup": measure_startup,
}


if __name__ == "__main__":
    raise SystemExit(main())
