"""Keys and values of everything that the LLM remembers, in memory reserved once.

The LLM graph reads the past as contiguous arrays [1, Hkv, P, d], where P is a *bucket*: a few sizes from 64 up to the
capacity, so that a backend sees few shapes. A bias of -65504 hides slots that hold nothing. A slice of an array
[Hkv, capacity, d] would not be contiguous; each flat buffer is therefore laid out for the current P, and laid out anew,
in place, when the bucket grows. So no step copies the cache, which lies where the backend's graphs read and write it. A
graph that writes into the whole cache has one size only: ``least`` is then the capacity.

Keys and values of a layer are each kept as one array, or as one of codes and one of scales
(:data:`stc_export.spec.interface.KV_STATE`). All are moved alike; only keys that change their position are read as
numbers and kept anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_export.spec.errors import ParityError, ResourceError
from stc_export.spec.interface import KV_STATE
from stc_export.spec.memory import bucket_for
from stc_runtime.backends.store import HostStore, Store, Tensor, cut
from stc_runtime.dtypes import carrier, narrowed, widened
from stc_runtime.memory.coding import CODINGS
from stc_runtime.memory.rotary import shift_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from stc_export.spec.manifest import KVFormat
    from stc_runtime.memory.planner import AdmitPlan

#: Numbers, or uint16 that carry bfloat16.
Array = NDArray[Any]

#: Added to the score of a hidden slot: the lowest float16. It is exact in float32 too; in bfloat16 it is -65536.
HIDDEN = -65504.0


@dataclass(frozen=True)
class KVShape:
    """Sizes of the cache.

    Attributes:
        layers: L.
        kv_heads: Hkv, key and value heads.
        head_dim: d.
        capacity: Slots.
        sink_capacity: Most tokens of the sink.
        least: Fewest slots that the graph sees.
        kv: How keys and values are kept.
    """

    layers: int
    kv_heads: int
    head_dim: int
    capacity: int
    sink_capacity: int
    least: int = 0
    kv: KVFormat = "floats"

    def bucket(self, slots: int) -> int:
        """Return how many slots the graph sees when ``slots`` are needed."""
        return max(self.least, bucket_for(slots, self.capacity))


@dataclass(frozen=True, eq=False)
class _Rows:
    """One array of one layer: a row of numbers for each head and slot.

    Attributes:
        store: Where it lies.
        width: Numbers of a row.
        port: What a graph calls it, without ``_in`` or ``_out``.
    """

    store: Store
    width: int
    port: str


class KVMemory:
    """The KV cache of one stream.

    Every number in it is to be finite, used or not: hidden slots are multiplied by a weight of 0, which would not
    remove a NaN. Slots and positions are the business of :mod:`stc_runtime.memory.planner`.
    """

    def __init__(
        self, shape: KVShape, dtype: DTypeLike, theta: float, reserve: Callable[[int, DTypeLike], Store] = HostStore
    ) -> None:
        """Reserve and touch all memory, so that it is resident from now on.

        Args:
            shape: Sizes.
            dtype: Type of activations: float32, float16, or uint16 that carries bfloat16. That of the bias, and of keys
                and values or their scales.
            theta: Base of the rotary embedding.
            reserve: Makes the stores of keys and values; by default in the memory of the host.
        """
        self._shape = shape
        self._theta = theta
        self._coding = CODINGS[shape.kv]
        kinds = []
        for tensor in KV_STATE[shape.kv]:
            width = tensor.width(shape.head_dim)
            kind = carrier(tensor.dtype) if tensor.dtype else dtype
            stores = (reserve(shape.kv_heads * shape.capacity * width, kind) for _ in range(shape.layers))
            kinds.append([_Rows(store, width, f"{tensor.name}_{layer}") for layer, store in enumerate(stores)])
        #: In the order of a graph's inputs.
        self._all = tuple(rows for kind in kinds for rows in kind)
        self._names = {end: tuple(f"{rows.port}_{end}" for rows in self._all) for end in ("in", "out")}
        #: What is kept of the keys of each layer.
        self._keys = tuple(zip(*kinds[: len(kinds) // 2], strict=True))
        self._hidden = narrowed(np.array(HIDDEN), dtype)
        self._bias = np.full(shape.capacity, self._hidden)
        # Keys of the sink as first computed. Each move starts from them, so rounding never adds up.
        masters = (shape.layers, shape.kv_heads, shape.sink_capacity, shape.head_dim)
        self._masters = np.full(masters, 0.0, np.float32)
        self._sink = 0
        self._origin = 0
        self._used = 0
        self._see(shape.bucket(0))

    @property
    def nbytes(self) -> int:
        """Bytes reserved, the same for life."""
        return sum(rows.store.nbytes for rows in self._all) + self._bias.nbytes + self._masters.nbytes

    @property
    def layers(self) -> int:
        """L."""
        return self._shape.layers

    @property
    def bucket(self) -> int:
        """P, slots that the graph sees."""
        return self._bucket

    @property
    def used(self) -> int:
        """Slots that the graph attends to, from slot 0."""
        return self._used

    @used.setter
    def used(self, slots: int) -> None:
        if not 0 <= slots <= self._bucket:
            raise ValueError(f"{slots} used slots in a bucket of {self._bucket}")
        self._bias[:slots] = 0.0
        self._bias[slots:] = self._hidden
        self._used = slots

    def past(self, layer: int) -> tuple[Tensor, ...]:
        """Return what is kept of the keys and values of a layer, each contiguous [1, Hkv, P, d or 1].

        The arrays are views, valid until the bucket changes.
        """
        return tuple(self._views[layer :: self._shape.layers])

    def ports(self, suffix: Literal["in", "out"]) -> dict[str, Tensor]:
        """Return keys and values of all layers under the names of a graph: ``key_0_<suffix>``, ..., the views above."""
        return dict(zip(self._names[suffix], self._views, strict=True))

    def places(self, slot: int, end: int) -> dict[str, Tensor]:
        """Return slots ``[slot, end)`` of all layers as outputs [1, Hkv, S, d]: ``key_0_out``, ..., views as above."""
        return {name: cut(tensor, slot, end - slot) for name, tensor in self.ports("out").items()}

    def bias(self) -> Array:
        """Return the additive mask [1, P]: 0 for used slots, -65504 for others. A view that changes with ``used``."""
        return self._bias[: self._bucket].reshape(1, -1)

    def ensure(self, slots: int) -> None:
        """Grow the bucket until it has ``slots`` slots; what is in the slots stays.

        Raises:
            ResourceError: More slots than the capacity.
        """
        if slots > self._shape.capacity:
            raise ResourceError(
                f"The KV memory has {self._shape.capacity} slots, {slots} are needed.",
                "Raise memory.kv_tokens or memory.answer_tokens in the policy.",
            )
        if slots <= self._bucket:
            return
        grown = self._shape.bucket(slots)
        for rows in self._all:
            self._lay_out(rows, grown)
        self._see(grown)

    def check_room(self, slot: int, end: int) -> None:
        """Check that slots ``[slot, end)`` are ones that the graph sees.

        Raises:
            ValueError: They are not. A defect of the caller.
        """
        if not 0 <= slot <= end <= self._bucket:
            raise ValueError(f"slots [{slot}, {end}) in a bucket of {self._bucket}")

    def check_written(self, slot: int, end: int) -> None:
        """Look at slots ``[slot, end)`` of all layers, which a graph has written, if they lie on the host.

        Those on a device are not fetched for this: the logits, which depend on them, are looked at instead.

        Raises:
            ParityError: A number is not finite. The slots are then zeros, so that nothing else is spoilt.
        """
        for layer in range(self.layers):
            written = (cut(tensor, slot, end - slot) for tensor in self.past(layer))
            if not all(np.isfinite(widened(array)).all() for array in written if isinstance(array, np.ndarray)):
                self.wipe(slot, end)
                raise not_finite(f"Layer {layer} of the language model")

    def wipe(self, slot: int, end: int) -> None:
        """Set slots ``[slot, end)`` of all layers to 0."""
        for rows in self._all:
            self._put(rows, slot, np.zeros((self._shape.kv_heads, end - slot, rows.width)))

    def set_sink(self, tokens: int) -> None:
        """Declare the first ``tokens`` slots, prefilled at position 0, to be the sink.

        Raises:
            ValueError: More tokens than reserved.
        """
        if not 0 <= tokens <= self._shape.sink_capacity:
            raise ValueError(f"a sink of {tokens} tokens, {self._shape.sink_capacity} reserved")
        for layer, keys in enumerate(self._keys):
            self._masters[layer, :, :tokens] = self._coding.rows([self._get(rows, 0, tokens) for rows in keys])
        self._sink = tokens
        self._origin = 0

    def apply(self, plan: AdmitPlan) -> None:
        """Carry out a plan up to the writing of the new tokens, which have a slot then."""
        self.evict(plan.sink, plan.evicted_slots, self._used)
        if plan.rebase_by:
            self.rebase(plan.rebase_by, self._used)
        else:
            self.move_sink(plan.origin)
        self.ensure(plan.slot + plan.tokens)

    def evict(self, sink: int, count: int, used: int) -> None:
        """Drop slots ``[sink, sink + count)`` and move those behind them, up to ``used``, down in place."""
        if count == 0:
            return
        for rows in self._all:
            for head in range(self._shape.kv_heads):
                first, gone = self._place(rows, head, sink), count * rows.width
                rows.store.move(first, first + gone, (used - count - sink) * rows.width)
        self.used = used - count

    def move_sink(self, origin: int) -> None:
        """Give the sink the positions from ``origin`` on."""
        if origin == self._origin:
            return
        for layer, keys in enumerate(self._keys):
            moved = shift_keys(self._masters[layer, :, : self._sink], origin, self._theta)
            for rows, kept in zip(keys, self._coding.keep(moved, self._bias.dtype), strict=True):
                self._put(rows, 0, kept)
        self._origin = origin

    def rebase(self, delta: int, used: int) -> None:
        """Subtract ``delta`` from the position of every token up to ``used`` behind the sink; the sink returns to 0."""
        count = used - self._sink
        for keys in self._keys:
            for head in range(self._shape.kv_heads):  # one at a time keeps the working copy small
                places = [self._place(rows, head, self._sink) for rows in keys]
                old = [
                    rows.store.read(place, count * rows.width).reshape(-1, rows.width)
                    for rows, place in zip(keys, places, strict=True)
                ]
                moved = shift_keys(self._coding.rows(old), -delta, self._theta)
                for rows, place, kept in zip(keys, places, self._coding.keep(moved, self._bias.dtype), strict=True):
                    rows.store.write(place, kept)
        self.move_sink(0)

    def reset(self) -> None:
        """Forget everything: no used slots, no sink, the first bucket, and no number that was not finite."""
        for rows in self._all:
            rows.store.clear()
        self._see(self._shape.bucket(0))
        self._sink = 0
        self._origin = 0
        self.used = 0

    def _see(self, bucket: int) -> None:
        """Set how many slots the graph sees. The views of them are made here once, not for every token."""
        self._bucket = bucket
        self._views = [rows.store.tensor((1, self._shape.kv_heads, bucket, rows.width)) for rows in self._all]

    def _place(self, rows: _Rows, head: int, slot: int) -> int:
        return (head * self._bucket + slot) * rows.width

    def _put(self, rows: _Rows, slot: int, values: Array) -> None:
        """Write the rows [Hkv, S, width] of tokens."""
        for head, own in enumerate(values):
            rows.store.write(self._place(rows, head, slot), own)

    def _get(self, rows: _Rows, slot: int, count: int) -> Array:
        """Read the rows [Hkv, S, width] of tokens."""
        size = count * rows.width
        heads = [rows.store.read(self._place(rows, head, slot), size) for head in range(self._shape.kv_heads)]
        return np.stack(heads).reshape(len(heads), count, rows.width)

    def _lay_out(self, rows: _Rows, bucket: int) -> None:
        """Spread the heads over a larger bucket, last head first so that none is overwritten before it has moved."""
        for head in reversed(range(1, self._shape.kv_heads)):
            rows.store.move(head * bucket * rows.width, self._place(rows, head, 0), self._bucket * rows.width)


def not_finite(what: str) -> ParityError:
    """Return the error of numbers that are infinite or none at all."""
    return ParityError(
        f"{what} gave numbers that are not finite: an overflow.", "Build the bundle with --precision fp32."
    )
