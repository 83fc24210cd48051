"""``stc-export build``."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from stc_engines import find_target
from stc_engines.trt.product import PRODUCTS
from stc_export.cli.options import JsonFlag, PolicyOption, read_policy
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.seal import seal_text
from stc_export.cli.targets import BOUND_NOTE
from stc_export.cli.text import bytes_text, facts, ms_text, parity_table, table
from stc_export.pipeline.precisions import bundle_precisions, read_precisions
from stc_export.pipeline.types import BuildPlan, BuildRequest, BuildResult, Fit
from stc_export.spec.errors import UsageError, nearest
from stc_export.spec.manifest import KVFormat
from stc_export.spec.policy import METRIC_NAMES, Metric, Policy

EXAMPLE = "stc-export build demo --target cpu --out demo.stc"
#: What is said of the KV memory beside its size.
_KEPT: Mapping[KVFormat, str] = {"floats": "", "int8": ", in int8"}


def build(  # noqa: PLR0913 - one parameter per flag
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint directory, hub id, or demo.")],
    *,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="See stc-export targets.")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Bundle to write: MODEL.stc here.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="NAME,ROLE=NAME",
            help="fp32, fp16, bf16, int8, fp8, int4, int4-128; the target's default if not given. kv=int8, "
            "embed=int8: the LLM's memory, its embedding table.",
        ),
    ] = None,
    rounding: Annotated[
        str, typer.Option("--rounding", metavar="nearest|awq", help="How weights of few bits are rounded.")
    ] = "nearest",
    keep_precision: Annotated[
        str | None,
        typer.Option(
            "--keep-precision", metavar="A,B", help="Layers that are not rounded, e.g. llm.layers.0.*; see calibrate."
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="NAME", help="Round the LLM's output matrix as well: int4, int4-128 or int8."),
    ] = None,
    flavour: Annotated[
        str | None, typer.Option("--flavour", metavar="base|modern", help="The target's default if not given.")
    ] = None,
    policy: PolicyOption = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="A,B", help="Graphs for more metrics than cosine: l1, l2, dot.")
    ] = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Let vit give its attention, for the pruning method visionzip.")
    ] = False,
    calib: Annotated[
        Path | None,
        typer.Option(
            "--calib", metavar="PATH", help="Folder of videos or pictures, or a video, to choose scales from."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be built, and build nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Split a checkpoint into ONNX graphs, and write a bundle."""
    with reserved_stdout(as_json=as_json):
        progress = make_progress()
        found = find_target(target)
        progress.note(f"target: {found.name} ({found.title})")
        read_precisions(precision, found)
        request = BuildRequest(
            model=model,
            target=found.name,
            out=out,
            precision=precision,
            policy=read_policy(policy) or Policy(),
            overwrite=overwrite,
            flavour=flavour,
            metrics=_metrics(metrics),
            attention=attention,
            rounding=rounding,
            keep_precision=_names(keep_precision),
            calib=calib,
            head=head,
        )
        from stc_export.pipeline.build import plan_build
        from stc_export.pipeline.seal import build_and_seal

        result = plan_build(request) if dry_run else build_and_seal(request, progress)
    emit(result, plan_text(result) if isinstance(result, BuildPlan) else result_text(result), as_json=as_json)


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(","))


def _metrics(text: str | None) -> tuple[Metric, ...]:
    names = _names(text)
    for name in names:
        if name not in METRIC_NAMES:
            raise UsageError(f'--metrics has the metric "{name}".', nearest(name, METRIC_NAMES))
    return tuple(metric for metric in METRIC_NAMES if metric in names)


def plan_text(plan: BuildPlan) -> str:
    """Return a plan for people."""
    size = plan.size
    graphs = [(g.role, g.variant, g.precision, bytes_text(g.weights_bytes)) for g in plan.graphs]
    resident = plan.resident_bytes
    process = [] if resident is None else [("its process", f"about {bytes_text(resident)} resident")]
    return "\n\n".join(
        (
            facts(
                [
                    ("model", f"{plan.model} ({plan.family}, {plan.parameters:,} parameters)"),
                    ("target", f"{plan.target}, {plan.precision}, {plan.flavour} graphs"),
                    ("bundle", str(plan.out)),
                ]
            ),
            table(("graph", "variant", "precision", "weights"), graphs, right=(3,)),
            facts(
                [
                    ("on disk", bytes_text(size.disk_bytes)),
                    ("one session", f"about {bytes_text(size.session_bytes)}"),
                    ("  weights", bytes_text(size.weights_bytes)),
                    ("  feature cache", bytes_text(size.feature_cache_bytes)),
                    ("  KV memory", f"{bytes_text(size.kv_bytes)}{_KEPT[plan.kv]}"),
                    ("  activations", f"about {bytes_text(size.activations_bytes)}"),
                    *process,
                ]
            ),
            _fit_text(plan.fit),
            "Nothing was written (--dry-run).",
        )
    )


def _fit_text(fit: Fit) -> str:
    """Return whether it fits, and the least time of each stage."""
    fits = {True: "fits", False: "does not fit", None: "depends on the machine"}[fit.fits]
    room = "" if fit.room_bytes is None else f": it has room for {bytes_text(fit.room_bytes)}"
    frames = f"{bytes_text(fit.kv_per_1000_frames_bytes)}, with {fit.frame_tokens} tokens each"
    lines = [facts([(f"on {fit.target}", f"{fits}{room}"), ("KV of 1,000 frames", frames)])]
    rows = [
        (bound.stage, f"{2 * bound.macs / 1e9:.3g} Gop", bytes_text(bound.moved_bytes), ms_text(bound.ms), bound.limit)
        for bound in fit.stages
        if bound.ms is not None and bound.limit is not None
    ]
    if rows:
        lines += [table(("stage", "operations", "bytes", "at least", "because of"), rows, right=(1, 2, 3)), BOUND_NOTE]
    return "\n\n".join(lines)


def result_text(result: BuildResult) -> str:
    """Return a finished build for people: times, parity, sizes, and the next command."""
    manifest = result.manifest
    parts = [table(("stage", "time"), [(s.name, f"{s.seconds:.1f} s") for s in result.stages], right=(1,))]
    if manifest.parity:
        parts.append(parity_table(manifest.parity))
    graphs = sum(f.size_bytes for f in manifest.files if f.path in {g.file for g in manifest.graphs})
    weights = sum(f.size_bytes for f in manifest.files if f.path in {w for g in manifest.graphs for w in g.weights})
    total = sum(f.size_bytes for f in manifest.files)
    precisions = bundle_precisions(manifest).text
    parts.append(
        facts(
            [
                ("bundle", f"{result.bundle} ({precisions}, {len(manifest.graphs)} {manifest.flavour} graphs)"),
                ("graphs", bytes_text(graphs)),
                ("weights", bytes_text(weights)),
                ("total", bytes_text(total)),
            ]
        )
    )
    if not manifest.model.trained:
        parts.append("The weights of this model are random: answers mean nothing.")
    if result.sealed is not None:
        parts.append(seal_text(result.sealed))
    parts.append(f"next: {_next(result)}")
    return "\n\n".join(parts)


def _next(result: BuildResult) -> str:
    bundle = shlex.quote(str(result.bundle))
    run = f'stc-export run {bundle} VIDEO --ask "What happens in the video?"'
    needs_engines = find_target(result.manifest.target).backend.kind in PRODUCTS
    if needs_engines and result.sealed is None:
        return f"copy the bundle to the device, and run there: stc-export seal {bundle}"
    if result.sealed is not None and result.sealed.record.not_checked is not None:
        return f"copy the bundle to a machine with a GPU, and run there: {run}"
    return run
