"""The record of rounded weights: what it says by hand, and that nothing strange is read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec import codec
from stc_export.spec.calibration import (
    RECORD_NAME,
    SCHEMA,
    ActivationRecord,
    GraphDigest,
    LayerStep,
    RoundedFile,
    RoundingRecord,
    TensorError,
    check_scales,
    read_record,
)
from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import PreprocessSpec
from tests.stc_export.pipeline.small_bundle import small_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.spec.manifest import Manifest

ROW = RoundedFile("graphs/llm.weights", "int4", 4, 32, "ab" * 32, (TensorError("a", 0.1), TensorError("b", 0.3)))
TEXT = codec.to_json(RoundingRecord(SCHEMA, (ROW,)))


def write(root: Path, text: str) -> Path:
    (root / RECORD_NAME).parent.mkdir(exist_ok=True)
    (root / RECORD_NAME).write_text(text, encoding="utf-8")
    return root


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (found,) = read_record(write(tmp_path, TEXT)).files
    assert found == ROW
    assert (found.mean_error, found.worst) == (pytest.approx(0.2), TensorError("b", 0.3))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (SCHEMA, "stc.calib/2", 'has schema "stc.calib/2", expected "stc.calib/1"'),
        ('"bits": 4', '"bits": "4"', "bits is the text"),
        ('"bits": 4,', '"bits": 4, "code": 1,', "unknown key"),
        ("0.3", "NaN", "NaN is not a number"),
    ],
)
def test_record_that_is_not_ours_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        read_record(write(tmp_path, TEXT.replace(old, new, 1)))


@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3))
def test_damaged_record_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, place: int, text: str
) -> None:
    root = write(tmp_path_factory.getbasetemp(), TEXT[:place] + text + TEXT[place + 1 :])
    with contextlib.suppress(BundleError):
        assert read_record(root).schema == SCHEMA


def chosen(manifest: Manifest, **changed: Any) -> RoundingRecord:
    """Return a record whose scales were chosen for the graph of a manifest, but for what is changed."""
    (vit,) = (entry for entry in manifest.files if entry.path == "vit.onnx")
    fitting: dict[str, Any] = {"preprocess": manifest.preprocess, "graphs": (GraphDigest("vit.onnx", vit.sha256),)}
    record = ActivationRecord(
        arithmetic="int8",
        data="videos",
        data_sha256="cd" * 32,
        frames=64,
        full_passes=60,
        selective_passes=72,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        steps=(LayerStep("layers.0.fc1.weight", 0.03),),
        **{**fitting, **changed},
    )
    return RoundingRecord(SCHEMA, (ROW,), record)


def test_scales_are_read_as_they_were_written_and_fit_their_bundle(tmp_path: Path) -> None:
    record = chosen(small_manifest())
    assert read_record(write(tmp_path, codec.to_json(record))) == record
    check_scales(record, small_manifest())
    check_scales(RoundingRecord(SCHEMA, (ROW,)), small_manifest())


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"graphs": (GraphDigest("vit.onnx", "ab" * 32),)},
            'The scales of activations were chosen for "vit.onnx" with SHA-256 abababababab, the bundle has ',
        ),
        (
            {"graphs": (GraphDigest("other.onnx", "ab" * 32),)},
            'The scales of activations were chosen for "other.onnx" with SHA-256 abababababab, the bundle has none.',
        ),
        (
            {"preprocess": PreprocessSpec(384, "bilinear")},
            "The scales of activations were chosen for frames of 384 x 384 pixels (bilinear), the bundle has frames ",
        ),
    ],
)
def test_scales_of_another_bundle_are_refused(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        check_scales(chosen(small_manifest(), **changed), small_manifest())
    assert caught.value.problem.startswith(problem)


def test_missing_record_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be used"):
        read_record(tmp_path)
