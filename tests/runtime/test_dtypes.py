"""bfloat16 in numpy, against the type of the package ml_dtypes."""

from __future__ import annotations

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from stc_export.spec.manifest import DTYPE_BYTES
from stc_runtime.dtypes import carrier, clipped, declared, narrowed, widened

EVERY = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def test_every_bfloat16_widens_to_the_same_number() -> None:
    np.testing.assert_array_equal(widened(EVERY), EVERY.view(ml_dtypes.bfloat16).astype(np.float32))


def test_every_bfloat16_that_was_widened_narrows_to_itself() -> None:
    numbers = ~np.isnan(widened(EVERY))
    np.testing.assert_array_equal(narrowed(widened(EVERY), np.uint16)[numbers], EVERY[numbers])
    assert np.isnan(widened(narrowed(widened(EVERY)[~numbers], np.uint16))).all()


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=64))
def test_any_float32_narrows_as_ml_dtypes_rounds(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(widened(narrowed(values, np.uint16)), expected.astype(np.float32))


@pytest.mark.parametrize("low", [0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_half_of_the_last_place_goes_to_the_even_neighbour(low: int) -> None:
    """By hand: 1.0 is 0x3F80, the next 0x3F81; above half of the way it goes up, and at half to the even one."""
    for upper in (0x3F80, 0x3F81):
        up = low > 0x8000 or (low == 0x8000 and upper == 0x3F81)
        value = np.array([(upper << 16) | low], np.uint32).view(np.float32)
        assert narrowed(value, np.uint16)[0] == upper + up


def test_what_is_too_large_is_infinite_or_clipped() -> None:
    values = np.array([3.4e38, -3.4e38, 1.0], np.float32)
    assert widened(narrowed(values, np.uint16)).tolist() == [np.inf, -np.inf, 1.0]
    assert clipped(values, np.float16).tolist() == [65504.0, -65504.0, 1.0]
    np.testing.assert_array_equal(clipped(values, np.float32), values)
    np.testing.assert_array_equal(clipped(values, np.uint16), narrowed(values, np.uint16))


def test_types_that_numpy_has_carry_themselves() -> None:
    for dtype in DTYPE_BYTES:
        kind = carrier(dtype)
        assert declared(kind) == dtype
        assert kind.itemsize == DTYPE_BYTES[dtype]
        assert (kind.name == dtype) == (dtype != "bfloat16")
    numbers = np.arange(3, dtype=np.float16)
    assert widened(numbers) is numbers
    assert narrowed(numbers, np.float16) is numbers


def test_bfloat16_is_not_narrowed_twice() -> None:
    assert narrowed(EVERY, np.uint16) is EVERY
