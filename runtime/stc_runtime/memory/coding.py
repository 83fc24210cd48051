"""How the host reads and writes what is kept of keys and values (see :data:`stc_export.spec.interface.KV_STATE`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_export.spec.interface import KV_LEAST_SCALE, KV_MOST_CODE
from stc_runtime.dtypes import clipped, widened

if TYPE_CHECKING:
    from stc_export.spec.manifest import KVFormat

Array = NDArray[Any]


@dataclass(frozen=True)
class KVCoding:
    """Turns keys or values into what is kept of them, and back.

    Attributes:
        keep: (rows [..., tokens, d], type of activations) -> what is kept of them [..., tokens, d or 1], in the order
            of ``KV_STATE`` and in its types.
        rows: The same tensors -> rows, in a type that numpy can compute with.
    """

    keep: Callable[[Array, DTypeLike], tuple[Array, ...]]
    rows: Callable[[Sequence[Array]], Array]


def _codes(rows: Array, dtype: DTypeLike) -> tuple[Array, ...]:
    """Round to 127 steps on either side of 0, the largest absolute value of each row being the last of them."""
    wide = rows.astype(np.float32)
    scale = clipped(np.maximum(np.abs(wide).max(-1, keepdims=True), np.float32(KV_LEAST_SCALE)), dtype)
    # A scale that was rounded down would give the code 128.
    codes = np.clip(np.rint(wide * (KV_MOST_CODE / widened(scale).astype(np.float32))), -KV_MOST_CODE, KV_MOST_CODE)
    return codes.astype(np.int8), scale


def _rows(kept: Sequence[Array]) -> Array:
    codes, scale = kept
    rows: Array = codes.astype(np.float32) * (widened(scale).astype(np.float32) / KV_MOST_CODE)
    return rows


CODINGS: Mapping[KVFormat, KVCoding] = {
    "floats": KVCoding(lambda rows, dtype: (clipped(rows, dtype),), lambda kept: widened(kept[0])),
    "int8": KVCoding(_codes, _rows),
}
