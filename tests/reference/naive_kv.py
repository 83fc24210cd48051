"""A KV cache the obvious way: one record per token, keys stored unrotated with their position, all in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rotate(key: Array, position: int, theta: float) -> Array:
    """Rotate keys [..., d] to a position: pairs (i, i + d/2) as complex numbers."""
    half = key.shape[-1] // 2
    turn = np.exp(1j * np.array([position * theta ** (-2.0 * i / key.shape[-1]) for i in range(half)]))
    pairs = (key[..., :half] + 1j * key[..., half:]) * turn
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


@dataclass(frozen=True)
class Record:
    """One token: unrotated keys and values [L, Hkv, d], and its position."""

    key: Array
    value: Array
    position: int


class NaiveKV:
    """Records in slot order; the first ``sink`` of them are the sink."""

    def __init__(self, theta: float) -> None:
        self.theta = theta
        self.sink = 0
        self.records: list[Record] = []

    def evict(self, count: int) -> None:
        del self.records[self.sink : self.sink + count]

    def move_sink(self, origin: int) -> None:
        for slot in range(self.sink):
            self.records[slot] = replace(self.records[slot], position=origin + slot)

    def rebase(self, delta: int) -> None:
        for slot in range(self.sink, len(self.records)):
            self.records[slot] = replace(self.records[slot], position=self.records[slot].position - delta)
        self.move_sink(0)

    def keys(self, layer: int) -> Array:
        """Rotated keys [Hkv, used, d]."""
        return np.stack([rotate(r.key[layer], r.position, self.theta) for r in self.records], axis=1)

    def values(self, layer: int) -> Array:
        """Values [Hkv, used, d]."""
        return np.stack([r.value[layer] for r in self.records], axis=1)
