"""What each compression method costs and saves at real layer shapes; writes benchmarks/results/method-times-NAME.json.

    python benchmarks/method_times.py [--quick] [--threads N] [--bundle DIR] [--results DIR]

The latencies beside the accuracies of docs/results.md: passes of the ViT at three update ratios, every pruning method
at four keep ratios, and the prefill of what it keeps. Weights are random, which changes answers but not times.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench import Bench, joined, record
from shapes import FULL, QUICK, cached_bundle
from tables import RESULTS

from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import load_average, write_record
from stc_export.pipeline.bench.series import Measured, Series, Step, compare, interleaved, timed_ms
from stc_export.pipeline.bench.stages import measure_prefill, measure_vit
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.operations import projector_macs
from stc_export.spec.memory import kept_tokens
from stc_export.spec.policy import Policy, PrunerPolicy, Selection
from stc_runtime.dtypes import narrowed
from stc_runtime.encoder import LastLayer
from stc_runtime.model import Model
from stc_runtime.pruner import FramePruner

KEEP = (0.5, 0.3, 0.25, 0.15)
INTERVALS = (2, 4)
SELECTIONS: tuple[Selection, ...] = ("per_layer", "gate")
RATIOS = ("10 %", "25 %", "50 %")
WARMUP = 2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes: checks that everything runs")
    parser.add_argument("--threads", type=int, help="threads inside an operator (default: one per core)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--bundle", type=Path, help="a bundle to measure instead of building one")
    options = parser.parse_args(arguments)
    progress = make_progress()
    plan = QUICK if options.quick else FULL
    bundle = options.bundle or cached_bundle(plan, progress)
    bench = Bench(plan, bundle, bundle, options.threads, progress)
    load_before = load_average()
    measured = measure(bench)
    options.results.mkdir(parents=True, exist_ok=True)
    out = options.results / f"method-times-{plan.name}.json"
    write_record(record(bench, measured, load_before), out)
    tables = (cacher_table(measured), pruner_table(measured))
    print(f"\n{out.name}\n\n" + "\n\n".join(tables) + "".join(f"\n\n{note}" for note in measured.notes))
    return 0


def measure(bench: Bench) -> Measured:
    """Measure the passes of the ViT, the pruners, and the prefills of what they keep."""
    rounds, policy, scene = bench.plan.vit_rounds, Policy(), read_scene(None, 2)
    parts = [measure_vit(bench.model(), policy, selection, scene, rounds, bench.progress) for selection in SELECTIONS]
    parts.append(_pruners(bench))
    frames = bench.plan.prefill[0][0]
    parts += [
        measure_prefill(bench.model(), _keeping(keep), frames, bench.plan.repeats, bench.progress) for keep in KEEP
    ]
    return joined(parts)


def _keeping(keep: float, method: str = "stc_dual_anchor") -> Policy:
    return replace(Policy(), pruner=PrunerPolicy(method=method, keep=keep))


def _pruners(bench: Bench) -> Measured:
    """Measure each method at each keep ratio against projecting and pooling alone, which is what `none` does."""
    model = bench.model()
    total = model.manifest.dims.vision.visual_tokens
    plans = [("none", 1.0)]
    plans += [(entry.method, keep) for entry in model.manifest.pruners if entry.method != "none" for keep in KEEP]
    steps = [_prune(model, method, keep) for method, keep in plans]
    rounds = 3 * bench.plan.vit_rounds
    with bench.progress.stage("pruners", rounds, "rounds") as advance:
        samples = interleaved(steps, WARMUP, rounds, advance)
    macs = projector_macs(model.manifest.dims)
    none, *others = (
        Series(f"{method}, {kept_tokens(total, keep)} of {total}", macs, WARMUP, 1, taken)
        for (method, keep), taken in zip(plans, samples, strict=True)
    )
    return Measured((none, *others), tuple(compare(series, none) for series in others))


def _prune(model: Model, method: str, keep: float) -> Step:
    """Return what prunes a frame of random features, after a history of random frames."""
    vision = model.manifest.dims.vision
    pruner, random = FramePruner(model, _keeping(keep, method)), np.random.default_rng(0)
    frames = [narrowed(random.standard_normal((vision.tokens, vision.width)), model.dtype) for _ in range(2)]
    keys = narrowed(random.standard_normal((vision.heads, vision.tokens, vision.head_dim)), model.dtype)
    last_layer = LastLayer(random.random(vision.tokens, np.float32), keys)
    return lambda index: timed_ms(lambda: pruner.prune(frames[index % 2], last_layer))


def cacher_table(measured: Measured) -> str:
    """Mean time of the ViT for each interval N and share R of tokens, computed from the medians of its passes."""
    times = {series.name: series.p50_ms for series in measured.series}
    lines = ["| selection | N | R | ViT per frame, ms | of a full pass |", "|---|---:|---:|---:|---:|"]
    for selection in SELECTIONS:
        full = times[f"vit {selection} full"]
        lines.append(f"| {selection} | 1 | all | {full:.0f} | 100 % |")
        for interval in INTERVALS:
            for ratio in RATIOS:
                mean = (full + (interval - 1) * times[f"vit {selection} {ratio}"]) / interval
                lines.append(f"| {selection} | {interval} | {ratio} | {mean:.0f} | {100 * mean / full:.0f} % |")
    return "\n".join(lines)


def pruner_table(measured: Measured) -> str:
    """Time of each method, and of the prefill of what it keeps, per keep ratio."""
    times = {series.name: series.p50_ms for series in measured.series}
    prefills = [row for row in measured.rows if row.stage.startswith("prefill")]
    kept = [row.stage.split(",")[0].removeprefix("prefill ").removesuffix(" tokens") for row in prefills]
    none = next(name for name in times if name.startswith("none,"))
    methods = dict.fromkeys(name.split(",")[0] for name in times if " of " in name and not name.startswith("prefill"))
    lines = [f"| method | {' | '.join(f'{count}, ms' for count in kept)} |", f"|---|{'---:|' * len(kept)}"]
    lines += [_row(method, [times.get(f"{method}, {count}", times[none]) for count in kept]) for method in methods]
    lines.append(_row("prefill of them", [row.p50_ms for row in prefills]))
    lines.append(_row("prefill of all, beside it", [row.baseline_p50_ms for row in prefills]))
    return "\n".join(lines)


def _row(name: str, times_ms: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{time:.1f}' for time in times_ms)} |"


if __name__ == "__main__":
    raise SystemExit(main())
