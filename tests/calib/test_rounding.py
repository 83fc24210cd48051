"""Rounding against figures worked out by hand, plain loops, and int4 as the package onnx reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper

from stc_calib.rounding import pack_codes, restore_weights, round_weights, unpack_codes
from stc_calib.schemes import SCHEMES, Scheme
from stc_runtime.dtypes import widened

if TYPE_CHECKING:
    from stc_export.spec.manifest import DType

ALL = [scheme for kind in ("ort", "trt") for scheme in SCHEMES[kind]["llm"].values()]
NBITS, DEQUANTIZE = (SCHEMES[kind]["llm"]["int4"] for kind in ("ort", "trt"))
HALF = Scheme("int4", "dequantize", 4, 2, 21)


def by_hand(weights: np.ndarray, scheme: Scheme) -> tuple[list[list[int]], list[list[float]]]:
    """Round row by row and block by block, in double precision."""
    most = {4: 7, 8: 127}[scheme.bits]
    codes, scales = [], []
    for row in weights.astype(np.float64):
        size = scheme.block or len(row)
        blocks = [row[first : first + size] for first in range(0, len(row), size)]
        own = [max(abs(block)) / most or 1.0 for block in blocks]
        scales.append(own)
        codes.append([round(w / s) for block, s in zip(blocks, own, strict=True) for w in block])
    return codes, scales


def test_figures_by_hand() -> None:
    """7 is the largest code: scales 0.5, 1 and, for zeros alone, 1; 1.25 / 0.5 = 2.5 goes to the even 2."""
    rounded = round_weights(np.array([[3.5, 1.25, -7.0, 3.4], [0.0, 0.0, 0.7, -0.3]], np.float32), HALF, "float32")
    assert rounded.codes.tolist() == [[7, 2, -7, 3], [0, 0, 7, -3]]
    assert rounded.scales.tolist() == [[0.5, 1.0], [1.0, pytest.approx(0.1)]]
    assert restore_weights(rounded)[0].tolist() == [3.5, 1.0, -7.0, 3.0]


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: f"{scheme.form} {scheme.precision}")
def test_plain_loops_round_alike(scheme: Scheme) -> None:
    weights = np.random.default_rng(3).standard_normal((5, 256), dtype=np.float32)
    rounded = round_weights(weights, scheme, "float32")
    codes, scales = by_hand(weights, scheme)
    np.testing.assert_array_equal(rounded.codes, codes)
    np.testing.assert_allclose(rounded.scales, scales, rtol=1e-6)


@given(arrays.arrays(np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from(ALL))
def test_no_weight_moves_by_more_than_half_a_step(weights: np.ndarray, scheme: Scheme) -> None:
    if not scheme.fits(weights.shape[1]):
        return
    rounded = round_weights(weights, scheme, "float32")
    steps = np.repeat(rounded.scales, weights.shape[1] // rounded.scales.shape[1], axis=1)
    # A scale below the least normal number has few bits of its own.
    assert (np.abs(restore_weights(rounded) - weights) <= steps * 0.500001 + 1e-38).all()
    assert np.abs(rounded.codes).max() <= 2 ** (scheme.bits - 1) - 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_divided_by_the_scale_that_is_stored(dtype: DType) -> None:
    """So that the error is half a step of the scale as it is, not as it was."""
    weights = np.random.default_rng(0).standard_normal((8, 64), dtype=np.float32)
    rounded = round_weights(weights, NBITS, dtype)
    scales = np.repeat(widened(rounded.scales).astype(np.float32), 32, axis=1)
    inside = np.abs(rounded.codes) < 7
    assert (np.abs(restore_weights(rounded) - weights) <= 0.5001 * scales)[inside].all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows_in_the_scale(value: float) -> None:
    weights = np.zeros((2, 32), np.float32)
    weights[1, 5] = value
    scales = round_weights(weights, NBITS, "float32").scales
    assert np.isfinite(scales[0]).all()
    assert not np.isfinite(scales[1]).any()


def test_scale_that_half_precision_does_not_have_shows_too() -> None:
    assert not np.isfinite(round_weights(np.full((1, 32), 1e6, np.float32), NBITS, "float16").scales).any()


@given(arrays.arrays(np.int8, (2, 64), elements=st.integers(-7, 7)), st.sampled_from(ALL))
def test_codes_survive_packing(codes: np.ndarray, scheme: Scheme) -> None:
    packed = pack_codes(codes, scheme)
    assert packed.shape == (2, 64 * scheme.bits // 8)
    np.testing.assert_array_equal(unpack_codes(packed, scheme), codes)


def test_signed_codes_are_int4_of_onnx() -> None:
    codes = np.array([[-7, 7, 0, 1], [-1, 3, -4, 5]], np.int8)
    packed = pack_codes(codes, DEQUANTIZE)
    tensor = helper.make_tensor("w", TensorProto.INT4, codes.shape, packed.tobytes(), raw=True)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


def test_unsigned_codes_have_eight_added() -> None:
    """-7 + 8 = 1 in the lower half, 7 + 8 = 15 in the upper."""
    assert pack_codes(np.array([[-7, 7, 0, 0]], np.int8), NBITS).tolist() == [[0xF1, 0x88]]


def test_row_has_one_scale_where_there_are_no_blocks() -> None:
    rounded = round_weights(
        np.array([[127.0, -1.0], [254.0, 2.0]], np.float32), SCHEMES["trt"]["llm"]["int8"], "float32"
    )
    assert rounded.scales.tolist() == [[1.0], [2.0]]
    assert rounded.codes.tolist() == [[127, -1], [127, 1]]
