"""The record of a bundle's rounded weights (see :mod:`stc_export.spec.calibration`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stc_calib.schemes import Scheme
from stc_export.exporter.weights import WeightRecipe, WrittenFile
from stc_export.spec import codec
from stc_export.spec.calibration import RECORD_NAME, SCHEMA, ActivationRecord, RoundedFile, RoundingRecord


def write_record(
    weights: Mapping[str, Sequence[WeightRecipe]],
    written: Sequence[WrittenFile],
    activations: ActivationRecord | None,
    root: Path,
) -> tuple[str, ...]:
    """Write the record and return its path; nothing if no weight was rounded.

    Args:
        weights: Weight file -> its recipes.
        written: The weight files.
        activations: Scales of activations, if there are any.
        root: Directory of the bundle.
    """
    schemes = {file: recipe.scheme for file, recipes in weights.items() for recipe in recipes if recipe.scheme}
    rows = tuple(_row(schemes[file.path.name], file, root) for file in written if file.errors)
    if not rows:
        return ()
    (root / RECORD_NAME).parent.mkdir()
    (root / RECORD_NAME).write_text(codec.to_json(RoundingRecord(SCHEMA, rows, activations)), encoding="utf-8")
    return (RECORD_NAME,)


def _row(scheme: Scheme, file: WrittenFile, root: Path) -> RoundedFile:
    path = file.path.relative_to(root).as_posix()
    return RoundedFile(path, scheme.precision, scheme.bits, scheme.block, file.rounded_sha256, file.errors)
