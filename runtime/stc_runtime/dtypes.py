"""How the types of a bundle lie in numpy, which has no bfloat16: as uint16, the upper half of a float32.

Nothing else in a bundle is uint16, so an array of it is one of bfloat16. Tables, stores and engines carry such arrays
as they are. Who computes with them on the host widens them first and narrows what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_export.spec.manifest import DType

_BFLOAT16 = np.dtype(np.uint16)
#: Bits of a float32 that bfloat16 does not have.
_DROPPED = 16
#: Makes a NaN stay one when its lower bits are dropped.
_QUIET = 0x40
#: Largest number of types that reach less far than float32; bfloat16 reaches as far.
_LARGEST: Mapping[np.dtype[Any], float] = {np.dtype(np.float16): 65504.0}


def carrier(dtype: DType) -> np.dtype[Any]:
    """Return the type of numpy that carries a type of a manifest."""
    return _BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)


def declared(dtype: np.dtype[Any]) -> DType:
    """Return the type of a manifest that a type of numpy carries."""
    return "bfloat16" if dtype == _BFLOAT16 else cast("DType", dtype.name)


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """Return numbers that numpy can compute with: bfloat16 as float32, and all else as it is."""
    if array.dtype != _BFLOAT16:
        return array
    wide: NDArray[np.float32] = (array.astype(np.uint32) << _DROPPED).view(np.float32)
    return wide


def narrowed(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Return numbers in the type that is to carry them, rounded to the nearest, ties to even.

    Args:
        array: Numbers that numpy can compute with, or already in ``dtype``.
        dtype: A type that :func:`carrier` gives.
    """
    if np.dtype(dtype) != _BFLOAT16 or array.dtype == _BFLOAT16:
        return array.astype(dtype, copy=False)
    values = np.asarray(array, np.float32)
    bits = values.view(np.uint32)
    half_or_even = np.uint32(0x7FFF) + ((bits >> _DROPPED) & np.uint32(1))
    upper = np.where(np.isnan(values), (bits >> _DROPPED) | np.uint32(_QUIET), (bits + half_or_even) >> _DROPPED)
    return upper.astype(_BFLOAT16)


def clipped(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Return numbers in the type that is to carry them; in float16, what is too large becomes 65504."""
    limit = _LARGEST.get(np.dtype(dtype))
    return narrowed(array if limit is None else np.clip(array, -limit, limit), dtype)
