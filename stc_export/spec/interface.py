"""Inputs and outputs of every graph: what the exporter declares, a bundle promises and the runtime feeds.

Shapes are in the letters of :mod:`stc_export.spec.dims`. State that a session carries from frame to frame is named
``*_in`` and ``*_out``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.manifest import SELECTION_INPUTS, DType, Flavour, GraphEntry, KVFormat, Role, TensorSpec
from stc_export.spec.policy import Metric, Policy, Selection


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class StateTensor:
    """A part of the ViT's feature cache.

    Attributes:
        name: Its name, with the layer's number and ``_in`` or ``_out`` behind it.
        layout: ``heads`` [heads, T, head_dim] or ``tokens`` [T, C]; both have T * C elements.
        scope: One tensor for each layer, or one for the whole encoder.
    """

    name: str
    layout: Literal["heads", "tokens"]
    scope: Literal["layer", "encoder"]


_KEYS_AND_VALUES = (StateTensor("key", "heads", "layer"), StateTensor("value", "heads", "layer"))
_RANKING_STATE = (
    *_KEYS_AND_VALUES,
    StateTensor("attention", "tokens", "layer"),
    StateTensor("mlp", "tokens", "layer"),
)

#: What each selection keeps between frames, in the order of the graph's inputs.
VIT_STATE: Mapping[Selection, tuple[StateTensor, ...]] = {
    "gate": (StateTensor("delta", "tokens", "encoder"), *_KEYS_AND_VALUES),
    "per_layer": _RANKING_STATE,
    "shared": _RANKING_STATE,
}

#: What ``vit`` takes beside the tokens that it recomputes, a number of float32 for each of them.
TOKEN_SHARES: Mapping[Selection, tuple[str, ...]] = {"gate": ("gain", "drift"), "per_layer": (), "shared": ()}

#: The graph that ranks tokens, and so has a variant for each metric.
_RANKING_ROLE: Mapping[Selection, Role] = {"gate": "cacher_gate", "per_layer": "vit", "shared": "vit"}


def session_graphs(policy: Policy) -> Mapping[Role, str]:
    """Return the variant of each graph that a session with a policy opens."""
    selection = policy.cacher.selection
    plain: dict[Role, str] = {
        "cacher_gate": "default",
        "vit": selection,
        "pruner": policy.pruner.method,
        "llm": "default",
    }
    ranking = _RANKING_ROLE[selection]
    return {**plain, ranking: metric_variant(plain[ranking], policy.cacher.metric)}


def metric_variant(variant: str, metric: Metric) -> str:
    """Return the name of a graph's variant with a metric: ``per_layer`` with ``l2`` is ``per_layer.l2``."""
    return ".".join(part for part in (variant, metric) if part not in ("default", "cosine")) or "default"


def vit_selection(variant: str) -> Selection | None:
    """Return the selection of a variant of ``vit``; ``None`` if it has none."""
    return next((selection for selection in VIT_STATE if selection == variant.partition(".")[0]), None)


def gate_interface(vision: VisionDims, dtype: DType) -> Interface:
    """Return the interface of ``cacher_gate``."""
    patches = (vision.tokens, vision.width)
    return Interface(
        (
            TensorSpec("frame", "uint8", (vision.image_size, vision.image_size, 3)),
            TensorSpec("reference", dtype, patches),
        ),
        (
            TensorSpec("patch_embeddings", dtype, patches),
            TensorSpec("similarity", "float32", (vision.tokens,)),
            TensorSpec("statistics", "float32", (3,)),
        ),
    )


def vit_state(vision: VisionDims, dtype: DType, selection: Selection, suffix: str) -> tuple[TensorSpec, ...]:
    """Return the feature cache of a selection as tensors named ``*_<suffix>``."""
    shapes = {"heads": (vision.heads, vision.tokens, vision.head_dim), "tokens": (vision.tokens, vision.width)}
    specs: list[TensorSpec] = []
    for tensor in VIT_STATE[selection]:
        numbers = [f"_{layer}" for layer in range(vision.layers)] if tensor.scope == "layer" else [""]
        specs += [TensorSpec(f"{tensor.name}{number}_{suffix}", dtype, shapes[tensor.layout]) for number in numbers]
    return tuple(specs)


def vit_interface(vision: VisionDims, dtype: DType, selection: Selection, *, attention: bool = False) -> Interface:
    """Return the interface of ``vit`` with a selection; ``attention``: whether it gives what each token received."""
    patches = (vision.tokens, vision.width)
    received = (TensorSpec("attention", "float32", (vision.tokens,)),) if attention else ()
    return Interface(
        (
            TensorSpec("patch_embeddings", dtype, patches),
            TensorSpec(SELECTION_INPUTS[selection], "int64", ("R",)),
            *(TensorSpec(name, "float32", ("R",)) for name in TOKEN_SHARES[selection]),
            *vit_state(vision, dtype, selection, "in"),
        ),
        (TensorSpec("features", dtype, patches), *received, *vit_state(vision, dtype, selection, "out")),
    )


def pruner_interface(dims: ModelDims, dtype: DType, history_width: int, inputs: Sequence[str]) -> Interface:
    """Return the interface of ``pruner`` with a method.

    Args:
        dims: Sizes.
        dtype: Type of features and visual tokens.
        history_width: E, elements of a history entry; 0 without history.
        inputs: What the method takes beside the features, of ``history``, ``history_weights``, ``alpha``,
            ``noise``, ``attention``, ``keys`` and ``carrier``. Without a carrier it keeps all M tokens.
    """
    vision, width = dims.vision, dims.text.width
    kept: int | str = "K" if "carrier" in inputs else vision.visual_tokens
    known = {
        "history": TensorSpec("history", "float32", ("W", history_width)),
        "history_weights": TensorSpec("history_weights", "float32", ("W",)),
        "alpha": TensorSpec("alpha", "float32", (1,)),
        "noise": TensorSpec("noise", "float32", (vision.visual_tokens,)),
        "attention": TensorSpec("attention", "float32", (vision.tokens,)),
        "keys": TensorSpec("keys", dtype, (vision.heads, vision.tokens, vision.head_dim)),
        "carrier": TensorSpec("carrier", "int64", ("K",)),
    }
    entry = (TensorSpec("history_entry", "float32", (history_width,)),) if history_width else ()
    return Interface(
        (TensorSpec("features", dtype, (vision.tokens, vision.width)), *(known[name] for name in inputs)),
        (
            TensorSpec("visual_tokens", dtype, (kept, width)),
            TensorSpec("kept_indices", "int64", (kept,)),
            *entry,
        ),
    )


@dataclass(frozen=True)
class KVTensor:
    """A part of what the LLM remembers of a token in each layer.

    Attributes:
        name: Its name, with the layer's number and ``_in`` or ``_out`` behind it.
        holds: Numbers for each head: ``head``, all d of it, or ``one``.
        dtype: Their type; ``None``: that of activations.
    """

    name: str
    holds: Literal["head", "one"]
    dtype: DType | None = None

    def width(self, head_dim: int) -> int:
        """Return how many numbers it has of a token and head; ``head_dim``: d."""
        return head_dim if self.holds == "head" else 1


#: The largest code, and the least scale, so that nothing is divided by 0: the smallest float16 with all its digits.
KV_MOST_CODE, KV_LEAST_SCALE = 127, 2.0**-14

#: What the KV memory is made of, in the order of the graph's inputs: the first half is of keys, the other of values. A
#: scale is what the code 127 stands for, the largest absolute value of a token's head; what the code 1 stands for is
#: often too small for float16 to keep all its digits.
KV_STATE: Mapping[KVFormat, tuple[KVTensor, ...]] = {
    "floats": (KVTensor("key", "head"), KVTensor("value", "head")),
    "int8": (
        KVTensor("key", "head", "int8"),
        KVTensor("key_scale", "one"),
        KVTensor("value", "head", "int8"),
        KVTensor("value_scale", "one"),
    ),
}


def kv_format(llm: GraphEntry) -> KVFormat:
    """Return how a graph ``llm`` keeps keys and values."""
    codes = any(spec.name == "key_0_in" and spec.dtype == "int8" for spec in llm.inputs)
    return "int8" if codes else "floats"


@dataclass(frozen=True)
class _Cache:
    """How keys and values of one layer go in and come out.

    Attributes:
        taken: Slots that go in: P, or their number where it is part of the graph.
        given: Slots that come out.
        inputs: What the graph is told beside them.
    """

    taken: int | str
    given: int | str
    inputs: tuple[TensorSpec, ...]


def _cache(flavour: Flavour, slots: int) -> _Cache:
    """TensorRT writes in place into a cache whose number of slots is part of the graph only."""
    told = TensorSpec("write_slot", "int64", (1,))
    return {"base": _Cache("P", "S", ()), "modern": _Cache(slots, slots, (told,))}[flavour]


def llm_interface(text: TextDims, dtype: DType, flavour: Flavour, slots: int, kv: KVFormat = "floats") -> Interface:
    """Return the interface of ``llm``.

    With ``base``, past keys and values of P slots go in, and those of the S new tokens come out. With ``modern``, P is
    a number, and all slots come out: the same memory, with the new tokens in it from slot ``write_slot`` on.

    Args:
        text: Sizes.
        dtype: Type of activations.
        flavour: Form of the graph.
        slots: P of a graph that writes them itself.
        kv: How keys and values are kept.
    """
    form = _cache(flavour, slots)

    def cache(suffix: str, count: int | str) -> list[TensorSpec]:
        return [
            TensorSpec(
                f"{tensor.name}_{layer}_{suffix}",
                tensor.dtype or dtype,
                (1, text.kv_heads, count, tensor.width(text.head_dim)),
            )
            for tensor in KV_STATE[kv]
            for layer in range(text.layers)
        ]

    return Interface(
        (
            TensorSpec("inputs_embeds", dtype, (1, "S", text.width)),
            TensorSpec("position_ids", "int64", (1, "S")),
            TensorSpec("past_bias", dtype, (1, form.taken)),
            *form.inputs,
            *cache("in", form.taken),
        ),
        (TensorSpec("logits", "float32", (1, text.vocab)), *cache("out", form.given)),
    )


def in_place(graph: GraphEntry) -> Mapping[str, str]:
    """Return the outputs that a graph writes over an input, with that input: both must be the same memory."""
    if all(spec.name != "write_slot" for spec in graph.inputs):
        return {}
    outputs = [spec.name for spec in graph.outputs if spec.name.endswith("_out")]
    return {name: f"{name.removesuffix('_out')}_in" for name in outputs}
