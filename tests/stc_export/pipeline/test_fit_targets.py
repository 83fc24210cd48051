"""Room and bounds on every target, of a model and of a bundle of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stc_engines import load_targets
from stc_export.pipeline.build import plan_build
from stc_export.pipeline.estimate import Stored, session_size
from stc_export.pipeline.fit import fit_target
from stc_export.pipeline.fit_targets import fit_targets
from stc_export.pipeline.precisions import Precisions
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import CheckpointError
from stc_export.spec.manifest import read_manifest


def test_model_has_a_row_per_target_as_its_dry_run_says(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fits = {fit.target: fit for fit in fit_targets(str(tiny_checkpoint))}
    assert list(fits) == [target.name for target in load_targets()]
    for name in ("cpu", "jetson-orin-nano-8gb", "h200"):
        assert fits[name] == plan_build(BuildRequest(str(tiny_checkpoint), target=name, out=tmp_path / "x.stc")).fit
    assert (fits["cpu"].precision, fits["cpu"].fits) == ("fp32", None)
    assert (fits["h200"].precision, fits["h200"].fits) == ("fp16", True)


def test_bundle_is_judged_in_its_own_precision(tiny_bundle_fp16: Path) -> None:
    assert {fit.precision for fit in fit_targets(str(tiny_bundle_fp16))} == {"fp16"}


def test_bundle_needs_what_was_planned_for_it(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    planned = plan_build(BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc")).fit
    built = next(fit for fit in fit_targets(str(tiny_bundle)) if fit.target == "cpu")
    assert replace(built, session_bytes=0) == replace(planned, session_bytes=0)
    # Weight files are rounded up to whole pages, and a file may hold more than the session's graphs refer to.
    assert planned.session_bytes <= built.session_bytes <= 1.5 * planned.session_bytes


def test_session_fits_up_to_the_last_byte_of_the_room(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    nano = next(t for t in load_targets() if t.name == "jetson-orin-nano-8gb")
    precisions = Precisions("fp32", {})
    need = session_size(Stored(0, 1000), manifest.dims, manifest.policy, precisions, nano.backend).session_bytes
    for spare, fits in ((0, True), (-1, False)):
        target = replace(nano, memory_bytes=need + 500 + spare, memory_reserved_bytes=500)
        found = fit_target(target, manifest.dims, manifest.policy, precisions, need)
        assert (found.fits, found.room_bytes) == (fits, need + spare)


def test_thousand_frames_are_kept_tokens_in_all_layers(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    text, kept = manifest.dims.text, 3  # 40 % of 9, rounded down as a stream does
    fit = fit_targets(str(tiny_bundle))[0]
    assert fit.frame_tokens == kept
    assert fit.kv_per_1000_frames_bytes == 1000 * kept * 2 * text.layers * text.kv_heads * text.head_dim * 4


def test_nothing_by_that_name_is_a_wrong_input() -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        fit_targets("nowhere")
