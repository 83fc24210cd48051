"""E4M3 in numpy against the numbers of the package that ONNX takes its types from."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stc_calib.float8 import LARGEST, from_float8, to_float8

NUMBERS = st.floats(-LARGEST, LARGEST, width=32)


def test_all_codes_stand_for_what_the_type_says() -> None:
    codes = np.arange(256).astype(np.uint8)
    known = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(from_float8(codes.view(np.int8)), known)


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_rounding_is_that_of_the_type(values: list[float]) -> None:
    given_values = np.array(values, np.float32)
    found = to_float8(given_values)
    assert found.view(np.uint8).tolist() == given_values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8).tolist()


def test_ties_go_to_the_even_code_and_large_numbers_to_the_largest() -> None:
    """Between 16 and 18 lies 17: 16 has the code 0x58, 18 has 0x59. 19 lies between 18 and 20 (0x5a)."""
    values = np.array([17, 19, -17, 1e6, -500, 2.0**-10, 3 * 2.0**-10], np.float32)
    assert from_float8(to_float8(values)).tolist() == [16, 20, -16, 448, -448, 0, 2.0**-8]
