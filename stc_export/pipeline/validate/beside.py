"""The other bundles of ``validate --beside``: the same model in another precision, and what they are called."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stc_export.pipeline.bench.record import describe_bundle
from stc_export.pipeline.precisions import bundle_precisions
from stc_export.pipeline.validate.types import ValidatedBundle
from stc_export.spec.calibration import RECORD_NAME, read_record
from stc_export.spec.errors import UsageError
from stc_export.spec.manifest import Manifest, read_manifest
from stc_export.validate.folder import BesidePlan


@dataclass(frozen=True)
class Beside:
    """A bundle of the validation.

    Attributes:
        path: Its directory.
        manifest: Its manifest.
        plan: What identifies it.
    """

    path: Path
    manifest: Manifest
    plan: BesidePlan


def find_beside(first: Path, manifest: Manifest, others: tuple[Path, ...]) -> tuple[Beside, ...]:
    """Read the bundles that settings run in beside the first one.

    A bundle is called by its precisions, e.g. ``fp32, llm int4, head int4``; where two have the same, by its directory
    as well.

    Args:
        first: Directory of the first bundle.
        manifest: Of the first bundle.
        others: Directories of the others.

    Raises:
        BundleError: One cannot be read.
        UsageError: One is named twice, or holds another model.
    """
    _check_once(first, others)
    manifests = [read_manifest(path) for path in others]
    for path, other in zip(others, manifests, strict=True):
        _check_same(first, manifest, path, other)
    precisions = [_precisions(path, one) for path, one in ((first, manifest), *zip(others, manifests, strict=True))]
    counts = Counter(precisions)
    return tuple(
        Beside(
            path.resolve(),
            other,
            BesidePlan(
                precision if counts[precision] == 1 else f"{path.resolve().name}, {precision}",
                describe_bundle(path, other).manifest_sha256,
            ),
        )
        for path, other, precision in zip(others, manifests, precisions[1:], strict=True)
    )


def validated_bundles(first: Path, manifest: Manifest, beside: tuple[Beside, ...]) -> tuple[ValidatedBundle, ...]:
    """Describe all bundles of a validation; nothing where there is one only."""
    if not beside:
        return ()
    return (
        _described("", first.resolve(), manifest),
        *(_described(other.plan.label, other.path, other.manifest) for other in beside),
    )


def _described(label: str, path: Path, manifest: Manifest) -> ValidatedBundle:
    weights = {file for graph in manifest.graphs for file in graph.weights}
    return ValidatedBundle(
        label=label,
        name=path.name,
        model=manifest.model.name,
        precision=_precisions(path, manifest),
        weights_bytes=sum(entry.size_bytes for entry in manifest.files if entry.path in weights),
        manifest_sha256=describe_bundle(path, manifest).manifest_sha256,
    )


def _precisions(path: Path, manifest: Manifest) -> str:
    """Return the precisions of a bundle, and what only its record tells: output matrix, AWQ, layers that are kept."""
    text = bundle_precisions(manifest).text
    if all(entry.path != RECORD_NAME for entry in manifest.files):
        return text
    graph = manifest.graph("llm")
    rounded = [file for file in read_record(path).files if file.file in graph.weights]
    layers = max(rounded, key=lambda file: len(file.tensors), default=None)
    beside = [f"{Path(file.file).stem} {file.precision}" for file in rounded if file is not layers]
    methods = sorted({file.rounding for file in rounded if file.rounding != "nearest"})
    kept = sum(len(file.kept) for file in rounded)
    return ", ".join((text, *beside, *methods, *([f"{kept} layers kept"] if kept else [])))


def _check_same(first: Path, manifest: Manifest, path: Path, other: Manifest) -> None:
    """Refuse a model of other sizes: neither its features nor its answers can be compared."""
    for what, here, there in (
        ("another architecture", manifest.model.architecture, other.model.architecture),
        ("other sizes", manifest.dims, other.dims),
    ):
        if here != there:
            raise UsageError(
                f'--beside is "{path}", a model of {what} than "{first}".',
                "Name a bundle that was built from the same checkpoint, as with another --precision.",
            )


def _check_once(first: Path, others: tuple[Path, ...]) -> None:
    """Refuse what is named twice; two that have the same name could not be told apart."""
    names = Counter(path.resolve().name for path in (first, *others))
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise UsageError(
            f'Two bundles to validate are called "{twice}".', "Name each bundle once, and give it a name of its own."
        )
