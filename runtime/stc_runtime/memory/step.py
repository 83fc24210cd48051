"""One run of the LLM on the KV memory: who writes the new keys and values depends on the flavour of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import ResourceError
from stc_runtime.memory.kv import not_finite

if TYPE_CHECKING:
    from stc_export.spec.manifest import Flavour, Manifest
    from stc_runtime.backends.base import Engine, Tensors
    from stc_runtime.memory.kv import KVMemory

Array = NDArray[Any]
#: Waits for the logits [1, V] in float32. Raises ParityError if one of them is not finite.
Logits = Callable[[], Array]


@dataclass(frozen=True)
class Slots:
    """How many slots a KV memory has.

    Attributes:
        capacity: Most that the graph sees.
        least: Fewest that it sees.
    """

    capacity: int
    least: int


def _any_number(_manifest: Manifest, needed: int) -> Slots:
    return Slots(needed, 0)


def _as_built(manifest: Manifest, needed: int) -> Slots:
    bias = next(spec for spec in manifest.graph("llm").inputs if spec.name == "past_bias")
    slots = bias.static_shape[1]
    if needed > slots:
        raise ResourceError(
            f"The policy needs {needed} slots (memory.kv_tokens and memory.answer_tokens), and the language model of "
            f"this bundle was built with {slots}.",
            "Lower them, or put the policy into the bundle: stc-export build MODEL --policy FILE.",
        )
    return Slots(slots, slots)


def _graph_gives(engine: Engine, kv: KVMemory, feeds: Tensors, slot: int) -> Logits:
    """The graph gives the new keys and values only, and the backend puts them behind the others."""
    end = _end(kv, feeds, slot)
    return _run(engine, kv, feeds, kv.places(slot, end), (slot, end))


def _graph_writes(engine: Engine, kv: KVMemory, feeds: Tensors, slot: int) -> Logits:
    """The graph writes into the memory: what goes in and what comes out are the same arrays."""
    told = {"write_slot": np.array([slot], np.int64)}
    return _run(engine, kv, {**feeds, **told}, kv.ports("out"), (slot, _end(kv, feeds, slot)))


def _end(kv: KVMemory, feeds: Tensors, slot: int) -> int:
    end = slot + feeds["inputs_embeds"].shape[1]
    kv.check_room(slot, end)
    return end


def _run(engine: Engine, kv: KVMemory, feeds: Tensors, into: Tensors, written: tuple[int, int]) -> Logits:
    """Run the graph on the memory and look at what it gave.

    On a device the logits stand for keys and values. A value that is not finite always shows in them, and so does a
    key, unless the last token scores it -inf: then it has the weight 0, and shows in the first call that it matters to.
    """
    outputs = engine.run({**feeds, **kv.ports("in")}, into)
    kv.check_written(*written)

    def looked_at() -> Array:
        logits = outputs["logits"]
        if not np.isfinite(logits).all():
            kv.wipe(*written)
            raise not_finite("The language model")
        return logits

    return looked_at


@dataclass(frozen=True)
class LlmForm:
    """How the LLM of a flavour is run.

    Attributes:
        slots: (manifest, slots that the policy needs) -> those of the memory. Raises ResourceError if the graph has
            fewer.
        run: (engine, memory, feeds beside the memory, first slot of the new tokens) -> logits; the new tokens are in
            the memory for all that comes after, still hidden. Raises ParityError if a number on the host is not finite.
    """

    slots: Callable[[Manifest, int], Slots]
    run: Callable[[Engine, KVMemory, Tensors, int], Logits]


LLM_FORMS: Mapping[Flavour, LlmForm] = {
    "base": LlmForm(_any_number, _graph_gives),
    "modern": LlmForm(_as_built, _graph_writes),
}
