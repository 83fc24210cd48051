"""Where a tuned policy and its evidence are written: into the bundle, or around a file elsewhere."""

from __future__ import annotations

from pathlib import Path

from stc_export.pipeline.calibrate.types import Place
from stc_export.pipeline.output_file import check_output_file
from stc_export.spec.errors import UsageError
from stc_export.spec.tuning import PICTURE_NAME, POLICY_NAME, RECORD_NAME, ROWS_NAME


def find_place(bundle: Path, out: Path | None) -> Place:
    """Return where to write, and make the folder for what is watched.

    Raises:
        UsageError: It cannot be written there.
    """
    place = _inside(bundle) if out is None else _around(out)
    try:
        place.rows.mkdir(parents=out is None, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f'"{place.rows}" cannot be written ({error.strerror}).',
            "Name a file where the policy can be written, for example --out tuned.json.",
        ) from error
    return place


def _inside(bundle: Path) -> Place:
    return Place(bundle / POLICY_NAME, bundle / RECORD_NAME, bundle / PICTURE_NAME, bundle / ROWS_NAME)


def _around(out: Path) -> Place:
    check_output_file("--out", out, ".json")
    return Place(out, out.with_suffix(".tuning.json"), out.with_suffix(".tuning.png"), out.with_suffix(".tuning"))
