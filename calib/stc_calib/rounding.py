"""Round weights to few bits and back: to the nearest, symmetric, without data. numpy only.

Of each block the largest absolute value becomes the largest code: 7 for 4 bits, 127 for 8, 448 for E4M3. The most
negative code (-8, -128) is not used, so that positive and negative weights are rounded alike. Scales are rounded to the
type in which they are stored before the weights are divided by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_calib.float8 import LARGEST, from_float8, to_float8
from stc_calib.schemes import Scheme, WeightForm
from stc_export.spec.manifest import DType, QuantisedPrecision
from stc_runtime.dtypes import carrier, narrowed, widened

Floats = NDArray[np.float32]

#: Whether codes are stored with half of their range added, as ``MatMulNBits`` reads them, or as signed numbers.
_UNSIGNED: Mapping[WeightForm, bool] = {
    "matmul_nbits": True,
    "dequantize": False,
    "matmul_integer": False,
    "quantize": False,
}


@dataclass(frozen=True)
class _Numbers:
    """What weights are rounded to.

    Attributes:
        most: The largest.
        encode: Numbers, most of them in range -> codes of the nearest.
        decode: Codes -> numbers.
    """

    most: float
    encode: Callable[[Floats], NDArray[np.int8]]
    decode: Callable[[NDArray[np.int8]], Floats]


def _whole_numbers(bits: int) -> _Numbers:
    most = 2 ** (bits - 1) - 1
    return _Numbers(
        most,
        lambda values: np.clip(np.rint(values), -most, most).astype(np.int8),
        lambda codes: codes.astype(np.float32),
    )


_NUMBERS: Mapping[QuantisedPrecision, _Numbers] = {
    "int4": _whole_numbers(4),
    "int4-128": _whole_numbers(4),
    "int8": _whole_numbers(8),
    "fp8": _Numbers(LARGEST, to_float8, from_float8),
}


@dataclass(frozen=True)
class Rounded:
    """Rounded weights.

    Attributes:
        codes: Whole numbers int8 [out, in]; those of E4M3 are its bits.
        scales: [out, blocks] in the type that carries the stored one.
        precision: What codes stand for; those of whole numbers, of any bits, for themselves.
    """

    codes: NDArray[np.int8]
    scales: NDArray[Any]
    precision: QuantisedPrecision = "int8"


def round_weights(weights: Floats, scheme: Scheme, dtype: DType) -> Rounded:
    """Round weights float32 [out, in]; scales come out as ``dtype``. What is not finite gives scales that are not."""
    numbers = _NUMBERS[scheme.precision]
    blocks = weights.reshape(len(weights), scheme.blocks(weights.shape[1]), -1)
    with np.errstate(over="ignore"):
        scales = narrowed(np.abs(blocks).max(-1) / np.float32(numbers.most), carrier(dtype))
    wide = widened(scales).astype(np.float32)
    divisor = np.where(wide > 0, wide, np.float32(1))
    with np.errstate(invalid="ignore"):
        codes = numbers.encode(np.asarray(blocks / divisor[..., None], np.float32))
    # A compiler may refuse the scale 0. It belongs to blocks whose codes are all 0, so that any other does as well.
    filled = np.where(wide == 0, narrowed(np.ones(1, np.float32), carrier(dtype)), scales)
    return Rounded(codes.reshape(weights.shape), filled, scheme.precision)


def restore_weights(rounded: Rounded) -> Floats:
    """Return the weights float32 [out, in] that rounded ones stand for."""
    outputs, blocks = rounded.scales.shape
    scales = widened(rounded.scales).astype(np.float32)
    codes = _NUMBERS[rounded.precision].decode(rounded.codes.reshape(outputs, blocks, -1))
    restored: Floats = (codes * scales[..., None]).reshape(rounded.codes.shape)
    return restored


def pack_codes(codes: NDArray[np.int8], scheme: Scheme) -> NDArray[np.uint8]:
    """Return codes [out, in] as bytes [out, in * bits / 8]; of two codes in a byte the first is the lower half."""
    raw = (codes.astype(np.int16) + _zero(scheme)).astype(np.uint8)
    if scheme.bits == 8:
        return raw
    low = raw & np.uint8(0x0F)
    packed: NDArray[np.uint8] = low[:, 0::2] | (low[:, 1::2] << np.uint8(4))
    return packed


def unpack_codes(packed: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.int8]:
    """Return the codes int8 [out, in] in bytes [out, in * bits / 8]."""
    raw = packed
    if scheme.bits == 4:
        raw = np.stack([packed & np.uint8(0x0F), packed >> np.uint8(4)], axis=-1).reshape(len(packed), -1)
    half, whole = 2 ** (scheme.bits - 1), 2**scheme.bits
    codes = (raw.astype(np.int16) - _zero(scheme) + half) % whole - half
    signed: NDArray[np.int8] = codes.astype(np.int8)
    return signed


def _zero(scheme: Scheme) -> int:
    """Return the stored number that means 0."""
    return 2 ** (scheme.bits - 1) if _UNSIGNED[scheme.form] else 0
