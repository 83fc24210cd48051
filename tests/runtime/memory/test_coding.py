"""What the host keeps of keys and values, against the formula one row at a time."""

from __future__ import annotations

from typing import Any, get_args

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from stc_export.spec.interface import KV_STATE
from stc_export.spec.manifest import KVFormat
from stc_runtime.dtypes import widened
from stc_runtime.memory.coding import CODINGS
from tests.reference.kv_codes import LEAST, coded, decoded, worst_error

ROWS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements=st.floats(-60_000, 60_000, width=32, allow_subnormal=False),
)


def test_there_is_a_coding_for_each_format() -> None:
    assert set(CODINGS) == set(KV_STATE) == set(get_args(KVFormat))
    for kinds in KV_STATE.values():
        halves = [kind.name for kind in kinds]
        assert [name.replace("key", "value") for name in halves[: len(halves) // 2]] == halves[len(halves) // 2 :]


@given(ROWS)
def test_codes_and_scales_are_those_of_the_formula(rows: Any) -> None:
    codes, scales = CODINGS["int8"].keep(rows, np.float32)
    wanted, sizes = coded(rows)
    assert codes.dtype == np.int8
    assert scales.dtype == np.float32
    np.testing.assert_array_equal(scales, sizes.astype(np.float32))
    exact = rows.astype(np.float64) * 127 / sizes
    between = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-4  # where float32 may round the other way
    np.testing.assert_array_equal(codes[~between], wanted[~between])
    assert np.abs(codes[between].astype(int) - wanted[between]).max(initial=0) <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
@given(rows=ROWS)
def test_what_is_kept_stands_for_numbers_half_a_code_away(dtype: type, rows: Any) -> None:
    """The scale is rounded to the type of activations: by at most 2^-9 in bfloat16."""
    kept = CODINGS["int8"].keep(rows, dtype)
    assert kept[1].dtype == dtype
    found = CODINGS["int8"].rows(kept)
    np.testing.assert_allclose(found, decoded(kept[0], widened(kept[1])), rtol=1e-6, atol=1e-12)
    scales = np.maximum(np.abs(rows).max(-1, keepdims=True), LEAST)
    assert (np.abs(found - rows) <= scales * (1 / 254 + 2.0**-8)).all()
    if dtype is np.float32:
        assert np.abs(found - rows).max() <= worst_error(rows)


def test_rows_of_zeros_stay_zeros() -> None:
    codes, scales = CODINGS["int8"].keep(np.zeros((2, 3), np.float32), np.float16)
    assert not codes.any()
    assert (scales == np.float16(LEAST)).all()


def test_keeping_what_was_kept_changes_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    once = CODINGS["int8"].keep(rows, np.float32)
    twice = CODINGS["int8"].keep(CODINGS["int8"].rows(once), np.float32)
    np.testing.assert_array_equal(once[0], twice[0])
    np.testing.assert_allclose(once[1], twice[1], rtol=1e-6)


def test_floats_are_kept_in_the_type_of_activations() -> None:
    rows = np.array([[1.5, 1e6, -2.25]], np.float32)
    (half,) = CODINGS["floats"].keep(rows, np.float16)
    assert half.tolist() == [[1.5, 65504.0, -2.25]]
    (brain,) = CODINGS["floats"].keep(rows, np.uint16)
    assert brain.view(ml_dtypes.bfloat16).astype(float).tolist() == [[1.5, 999424.0, -2.25]]
    np.testing.assert_array_equal(CODINGS["floats"].rows((brain,)), [[1.5, 999424.0, -2.25]])
