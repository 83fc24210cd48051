"""Numbers of 8 bits with an exponent: E4M3 of ONNX (``FLOAT8E4M3FN``), one bit of sign, four and three. numpy only.

The largest is 448 and the smallest above 0 is 2^-9. There is no infinity, and NaN is not written here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 448.0
#: Codes without a sign that are numbers; the one behind them is NaN.
_NUMBERS = 127
_SIGN = np.uint8(0x80)


def _positive() -> NDArray[np.float32]:
    """Return what the codes 0, 1, ... stand for, which grows."""
    codes = np.arange(_NUMBERS)
    exponent, fraction = codes >> 3, codes & 7
    small = fraction * 2.0**-9
    return np.where(exponent == 0, small, (8 + fraction) * 2.0 ** (exponent - 10.0)).astype(np.float32)


def to_float8(values: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return the codes of the nearest numbers, ties to the even code; what is larger becomes the largest.

    Args:
        values: Finite numbers of any shape.

    Returns:
        The bits of each, carried by int8.
    """
    known = _positive()
    middles = (known[1:] + known[:-1]) / 2
    sizes = np.abs(values)
    codes = np.searchsorted(middles, sizes, side="left").astype(np.uint8)
    tie = (codes < len(middles)) & (middles[np.minimum(codes, len(middles) - 1)] == sizes)
    codes += (tie & (codes % 2 == 1)).astype(np.uint8)
    return (codes | np.where(np.signbit(values), _SIGN, np.uint8(0))).astype(np.uint8).view(np.int8)


def from_float8(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return the numbers that codes stand for."""
    positive = np.append(_positive(), np.float32(np.nan))
    table = np.concatenate([positive, -positive]).astype(np.float32)
    return table[codes.view(np.uint8)]
