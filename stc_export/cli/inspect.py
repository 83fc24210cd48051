"""``stc-export inspect``."""

import re
from collections.abc import Sequence

import typer

from stc_export.cli.options import BundleArgument, JsonFlag
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import bytes_text, facts, one_line, table
from stc_export.pipeline.precisions import bundle_precisions
from stc_export.pipeline.types import InspectResult
from stc_export.spec.calibration import RoundedFile
from stc_export.spec.manifest import SessionMemory, TensorSpec

EXAMPLE = "stc-export inspect demo.stc"


def inspect(bundle: BundleArgument, *, as_json: JsonFlag = False) -> None:
    """Show what a bundle holds, and check its files."""
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.inspect import inspect as inspect_bundle

        result = inspect_bundle(bundle, make_progress())
    emit(result, result_text(result), as_json=as_json)
    if not result.ok:
        raise typer.Exit(1)


def result_text(result: InspectResult) -> str:
    """Return a bundle for people: model, graphs with interfaces, shared weights, and what is wrong with its files."""
    parts = [
        _facts(result),
        _graphs(result),
        _weights(result),
        _rounded(result),
        _activations(result),
        _engines(result),
        _tuned(result),
        _files(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _facts(result: InspectResult) -> str:
    manifest = result.manifest
    model, vision, text = manifest.model, manifest.dims.vision, manifest.dims.text
    trained = "" if model.trained else ", random weights: answers mean nothing"
    return facts(
        [
            ("bundle", f"{result.bundle} ({manifest.schema}, written by {one_line(manifest.writer)})"),
            ("model", f"{one_line(model.name)} ({model.family}, {model.parameters:,} parameters{trained})"),
            ("target", f"{one_line(manifest.target)}, {bundle_precisions(manifest).text}, {manifest.flavour} graphs"),
            ("vision", f"{vision.layers} layers, T = {vision.tokens}, C = {vision.width}, M = {vision.visual_tokens}"),
            ("text", f"{text.layers} layers, D = {text.width}, vocabulary {text.vocab:,}, context {text.context:,}"),
            ("pruners", ", ".join(one_line(pruner.method) for pruner in manifest.pruners) or "none"),
            ("size", f"{bytes_text(result.total_bytes)} in {len(manifest.files)} files"),
            ("one session", session_text(manifest.session)),
        ]
    )


def session_text(session: SessionMemory) -> str:
    """Return what a session needs, e.g. ``40.0 MB of weights, 3.1 MB of state; its process: about 126 MB resident``."""
    state = session.feature_cache_bytes + session.kv_bytes
    text = f"{bytes_text(session.weights_bytes)} of weights, {bytes_text(state)} of state"
    resident = session.resident_bytes
    return text if resident is None else f"{text}; its process: about {bytes_text(resident)} resident"


def _graphs(result: InspectResult) -> str:
    sizes = {entry.path: entry.size_bytes for entry in result.manifest.files}
    lines = []
    for graph in result.manifest.graphs:
        few = "" if graph.precision == result.manifest.precision else f"  {graph.precision}"
        lines.append(f"{graph.role}/{one_line(graph.variant)}  {graph.file}  {bytes_text(sizes[graph.file])}{few}")
        lines += [f"  in   {port}" for port in ports_text(graph.inputs)]
        lines += [f"  out  {port}" for port in ports_text(graph.outputs)]
    return "\n".join(lines)


def ports_text(ports: Sequence[TensorSpec]) -> list[str]:
    """Return a line per tensor, or one for those that differ only in the number of their layer.

    Args:
        ports: Declared inputs or outputs, e.g. ``key_0_in``, ``key_1_in``.

    Returns:
        For example ``key_{0..1}_in float32 [4, T, 48]``.
    """
    groups: dict[str, list[str]] = {}
    for port in ports:
        name, size = one_line(port.name), ", ".join(one_line(str(size)) for size in port.shape)
        number = re.search(r"(?<=_)\d+(?=_)", name)
        pattern = f"{name[: number.start()]}#{name[number.end() :]}" if number else name
        groups.setdefault(f"{pattern} {port.dtype} [{size}]", []).append(number.group() if number else "")
    return [line.replace("#", _span(numbers)) for line, numbers in groups.items()]


def _span(numbers: Sequence[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{{{numbers[0]}..{numbers[-1]}}}"


def _weights(result: InspectResult) -> str:
    rows = [(row.path, bytes_text(row.size_bytes), one_line(", ".join(row.graphs))) for row in result.weights]
    return table(("weights", "size", "used by"), rows, right=(1,)) if rows else ""


def _rounded(result: InspectResult) -> str:
    """Return what rounding cost: error relative to the original, mean over the weights and the worst of them."""
    rows = [
        (
            one_line(row.file),
            _how(row),
            str(row.block or "row"),
            f"{row.mean_error:.2%}",
            f"{row.worst.relative_error:.2%} {one_line(row.worst.name)}",
        )
        for row in result.rounded
    ]
    return table(("rounded", "precision", "block", "mean error", "worst"), rows, right=(3,)) if rows else ""


def _how(row: RoundedFile) -> str:
    """Return precision, rounding and the number of layers that were left: ``int4, awq on my_videos, 2 layers kept``."""
    rounding = [] if row.rounding == "nearest" else [f"{row.rounding} on {one_line(row.data)}"]
    kept = [f"{len(row.kept)} layers kept"] if row.kept else []
    return ", ".join([one_line(row.precision), *rounding, *kept])


def _activations(result: InspectResult) -> str:
    """Return what scales of activations were chosen from."""
    chosen = result.activations
    if chosen is None:
        return ""
    return (
        f"activations in {chosen.arithmetic}: {len(chosen.steps)} scales from {one_line(chosen.data)}, {chosen.frames} "
        f"frames ({chosen.full_passes} full and {chosen.selective_passes} selective passes), "
        f"SHA-256 {one_line(chosen.data_sha256[:12])}"
    )


def _engines(result: InspectResult) -> str:
    rows = [
        (
            one_line(row.folder),
            one_line(" ".join(filter(None, (bound.product, bound.version, bound.device)))),
            bytes_text(row.size_bytes),
            "damaged: seal again" if not row.whole else "not checked" if row.not_checked else "checked",
        )
        for row in result.engines
        for bound in [row.fingerprint]
    ]
    return table(("engines", "for", "size", "state"), rows, right=(2,)) if rows else ""


def _tuned(result: InspectResult) -> str:
    found = result.tuned
    if found is None:
        return ""
    state = "--policy tuned" if found.usable else "of another build, or changed: calibrate again"
    rows = [(one_line(found.budget), one_line(found.name), state)]
    return table(("tuned for", "policy", "used by"), rows)


def _files(result: InspectResult) -> str:
    lines = [f"missing   {path}" for path in result.missing]
    lines += [f"altered   {fault.path}: {fault.problem}" for fault in result.altered]
    lines += [f"unlisted  {one_line(path)}" for path in result.unlisted]
    verdict = "All listed files are as the manifest says."
    broken = len(result.missing) + len(result.altered)
    if broken:
        verdict = f"BROKEN: {broken} of {len(result.manifest.files)} files are missing or altered. Build it again."
    return "\n".join([*lines, verdict])
