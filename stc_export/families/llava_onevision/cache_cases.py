"""Keys and values in the parity cases of ``llm``: what is fed of the past, and what should come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.exporter.graphs import GraphForm
from stc_export.exporter.parity import Arrays
from stc_export.families.llava_onevision.cache import HIDDEN
from stc_export.spec.interface import KV_STATE
from stc_export.spec.manifest import DType, Flavour, KVFormat
from stc_runtime.dtypes import carrier, narrowed
from stc_runtime.memory.coding import CODINGS

#: Keys and values [1, kv heads, tokens, head_dim] of a layer.
Pair = tuple[NDArray[Any], NDArray[Any]]
Layers = Sequence[Pair]


@dataclass(frozen=True)
class Step:
    """A call of the graph.

    Attributes:
        form: Form of the graph.
        cache: Keys and values of all tokens, by transformers.
        first: First new token; those before it are the past.
        last: Behind the last new token.
        before: Runs the call before this one again.
    """

    form: GraphForm
    cache: Layers
    first: int
    last: int
    before: Callable[[], Arrays]


def _beside(step: Step) -> tuple[Arrays, Arrays]:
    """The past by transformers, in buffers with slots that hold nothing; the new keys and values come out."""
    slots = step.first + 16
    past = [
        (_padded(k[:, :, : step.first], slots, 1.0), _padded(v[:, :, : step.first], slots, 1.0)) for k, v in step.cache
    ]
    new = [(k[:, :, step.first : step.last], v[:, :, step.first : step.last]) for k, v in step.cache]
    return {"past_bias": _bias(step, slots), **_fed(step, past)}, _expected(step, new)


def _in_place(step: Step) -> tuple[Arrays, Arrays]:
    """The cache that the call before left, which a bundle need not store twice; the whole cache comes out."""
    slots = step.form.slots
    nothing = [(np.zeros_like(k[:, :, :0]), np.zeros_like(v[:, :, :0])) for k, v in step.cache]
    empty = _fed(step, [(_padded(k, slots, 0.0), _padded(v, slots, 0.0)) for k, v in nothing])
    left = step.before() if step.first else {}
    past = {name: left.get(f"{name.removesuffix('_in')}_out", value) for name, value in empty.items()}
    now = [
        (_padded(k[:, :, : step.last], slots, 0.0), _padded(v[:, :, : step.last], slots, 0.0)) for k, v in step.cache
    ]
    told = {"past_bias": _bias(step, slots), "write_slot": np.array([step.first], np.int64)}
    return {**told, **past}, _expected(step, now)


#: Step -> feeds and expected outputs.
CACHE_CASES: Mapping[Flavour, Callable[[Step], tuple[Arrays, Arrays]]] = {"base": _beside, "modern": _in_place}


def _bias(step: Step, slots: int) -> NDArray[Any]:
    bias = np.full((1, slots), HIDDEN, np.float32)
    bias[:, : step.first] = 0
    return narrowed(bias, carrier(step.form.dtype))


def _fed(step: Step, cache: Layers) -> dict[str, NDArray[Any]]:
    return _ports(cache, "in", step.form.dtype, step.form.kv)


def _expected(step: Step, cache: Layers) -> dict[str, NDArray[Any]]:
    return _ports(cache, "out", "float32", step.form.kv)


def _ports(cache: Layers, suffix: str, dtype: DType, kv: KVFormat) -> dict[str, NDArray[Any]]:
    names = [tensor.name for tensor in KV_STATE[kv]]
    return {
        f"{name}_{i}_{suffix}": np.ascontiguousarray(kept)
        for i, layer in enumerate(cache)
        for name, kept in zip(names, _kept(layer, dtype, kv), strict=True)
    }


def _kept(layer: Pair, dtype: DType, kv: KVFormat) -> tuple[NDArray[Any], ...]:
    return tuple(chain.from_iterable(CODINGS[kv].keep(rows, carrier(dtype)) for rows in layer))


def _padded(past: NDArray[Any], slots: int, value: float) -> NDArray[Any]:
    room = [(0, 0), (0, 0), (0, slots - past.shape[2]), (0, 0)]
    return np.pad(past, room, constant_values=value)
