"""Moves cached keys to other positions by rotating them.

Rotary embedding turns the pair ``(i, i + d/2)`` of a key at position p by the angle ``p * theta ** (-2 i / d)`` (the
half-split convention of Qwen2 and Llama). Turning it further by ``delta`` is the same as having computed it at
``p + delta``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stc_runtime.dtypes import clipped, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray


def shift_keys(keys: NDArray[Any], delta: int, theta: float) -> NDArray[Any]:
    """Return keys as if computed ``delta`` positions later.

    Args:
        keys: Keys [..., tokens, d] with even d, in any type that carries floating point numbers.
        delta: Positions to move by; may be negative.
        theta: Base of the rotary embedding.

    Returns:
        Rotated keys in the dtype of ``keys``. Angles are float64, the rotation is at least float32.
    """
    half = keys.shape[-1] // 2
    # Angles reach the length of the context; float32 would be off by a thousandth there.
    angles = delta * theta ** -(np.arange(half, dtype=np.float64) / half)
    wide = widened(keys)
    working = np.promote_types(wide.dtype, np.float32)
    cos, sin = np.cos(angles).astype(working), np.sin(angles).astype(working)
    low, high = wide[..., :half].astype(working), wide[..., half:].astype(working)
    rotated = np.concatenate((low * cos - high * sin, high * cos + low * sin), axis=-1)
    # A pair keeps its length, yet one of the two can grow by sqrt(2) and must not become infinite.
    return clipped(rotated, keys.dtype)
