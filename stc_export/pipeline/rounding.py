"""The record of a bundle's rounded weights (see :mod:`stc_export.spec.calibration`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stc_calib.schemes import Scheme
from stc_export.exporter.weights import WeightRecipe, WrittenFile
from stc_export.spec import codec
from stc_export.spec.calibration import (
    RECORD_NAME,
    SCHEMA,
    ActivationRecord,
    FoldedScales,
    RoundedFile,
    RoundingRecord,
)


@dataclass(frozen=True)
class Told:
    """What weight files do not tell of their rounding.

    Attributes:
        kept: Layers that were left as they are.
        folded: Scales of AWQ.
        data: Name of the data that they were chosen from.
        data_sha256: Digest of the prompts.
        activations: Scales of activations, if there are any.
    """

    kept: tuple[str, ...] = ()
    folded: tuple[FoldedScales, ...] = ()
    data: str = ""
    data_sha256: str = ""
    activations: ActivationRecord | None = None


def write_record(
    weights: Mapping[str, Sequence[WeightRecipe]], written: Sequence[WrittenFile], root: Path, told: Told
) -> tuple[str, ...]:
    """Write the record and return its path; nothing if no weight was rounded.

    Args:
        weights: Weight file -> its recipes.
        written: The weight files.
        root: Directory of the bundle.
        told: What else is to be recorded.
    """
    schemes = {file: recipe.scheme for file, recipes in weights.items() for recipe in recipes if recipe.scheme}
    rows = tuple(_row(schemes[file.path.name], file, root, told) for file in written if file.errors)
    if not rows:
        return ()
    (root / RECORD_NAME).parent.mkdir()
    (root / RECORD_NAME).write_text(codec.to_json(RoundingRecord(SCHEMA, rows, told.activations)), encoding="utf-8")
    return (RECORD_NAME,)


def _row(scheme: Scheme, file: WrittenFile, root: Path, told: Told) -> RoundedFile:
    stem = f"{file.path.stem}."
    folded = tuple(one for one in told.folded if one.layer.startswith(stem))
    return RoundedFile(
        file=file.path.relative_to(root).as_posix(),
        precision=scheme.precision,
        bits=scheme.bits,
        block=scheme.block,
        source_sha256=file.rounded_sha256,
        tensors=file.errors,
        rounding="awq" if folded else "nearest",
        kept=tuple(name for name in told.kept if name.startswith(stem)),
        folded=folded,
        data=told.data if folded else "",
        data_sha256=told.data_sha256 if folded else "",
    )
