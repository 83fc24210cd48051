"""Keys and values in 8 bits the obvious way, one row after the other.

A row is the numbers of one token and head. Its scale is the largest absolute value; code c stands for c / 127 of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Least scale.
LEAST = 1 / 16384


def code(row: list[float], least: float = LEAST) -> tuple[list[int], float]:
    """Return the codes of a row and its scale. A number half-way between two codes gets the even one."""
    scale = max([least, *(abs(number) for number in row)])
    return [round(number * 127 / scale) for number in row], scale


def coded(rows: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
    """Return codes [..., d] and scales [..., 1] of rows [..., d]."""
    pairs = [code(row) for row in rows.reshape(-1, rows.shape[-1]).astype(np.float64).tolist()]
    codes = np.array([codes for codes, _ in pairs], np.int8).reshape(rows.shape)
    return codes, np.array([scale for _, scale in pairs]).reshape(*rows.shape[:-1], 1)


def decoded(codes: NDArray[np.int8], scales: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the rows that codes and scales stand for."""
    return codes.astype(np.float64) * scales.astype(np.float64) / 127


def worst_error(rows: NDArray[np.floating]) -> float:
    """Return the largest error that rounding rows once can have in a number: half a code of the largest of them."""
    return max(LEAST, float(np.abs(rows).max(initial=0))) / 254 * 1.00001
