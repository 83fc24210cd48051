"""One run of the LLM on the KV memory: who writes the new keys and values depends on the flavour of the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import ResourceError

if TYPE_CHECKING:
    from stc_export.spec.manifest import Flavour, Manifest
    from stc_runtime.backends.base import Engine, Tensors
    from stc_runtime.memory.kv import KVMemory

Array = NDArray[Any]


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


def _host_writes(engine: Engine, kv: KVMemory, feeds: Tensors, slot: int) -> Array:
    """The graph gives the new keys and values back, and they are stored behind the others."""
    outputs = engine.run({**feeds, **kv.ports("in")}, {})
    for layer in range(kv.layers):
        kv.write(layer, slot, outputs[f"key_{layer}_out"], outputs[f"value_{layer}_out"])
    return outputs["logits"]


def _graph_writes(engine: Engine, kv: KVMemory, feeds: Tensors, slot: int) -> Array:
    """The graph writes into the memory: what goes in and what comes out are the same arrays."""
    end = slot + feeds["inputs_embeds"].shape[1]
    kv.check_room(slot, end)
    told = {"write_slot": np.array([slot], np.int64)}
    outputs = engine.run({**feeds, **told, **kv.ports("in")}, kv.ports("out"))
    kv.check_written(slot, end)
    return outputs["logits"]


@dataclass(frozen=True)
class LlmForm:
    """How the LLM of a flavour is run.

    Attributes:
        slots: (manifest, slots that the policy needs) -> those of the memory. Raises ResourceError if the graph has
            fewer.
        run: (engine, memory, feeds beside the memory, first slot of the new tokens) -> logits [1, V] in float32; the
            new tokens are in the memory then, still hidden. Raises ParityError if one of them is not finite.
    """

    slots: Callable[[Manifest, int], Slots]
    run: Callable[[Engine, KVMemory, Tensors, int], Array]


LLM_FORMS: Mapping[Flavour, LlmForm] = {
    "base": LlmForm(_any_number, _host_writes),
    "modern": LlmForm(_as_built, _graph_writes),
}
