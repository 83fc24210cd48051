"""Inputs and outputs of every graph: what the exporter declares, a bundle promises and the runtime feeds.

Shapes are in the letters of :mod:`stc_export.spec.dims`. State that a session carries from frame to frame is named
``*_in`` and ``*_out``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.manifest import SELECTION_INPUTS, DType, Role, TensorSpec
from stc_export.spec.policy import Policy, Selection


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


def session_graphs(policy: Policy) -> tuple[tuple[Role, str], ...]:
    """Return role and variant of the graphs that a session with a policy opens."""
    return (
        ("cacher_gate", "default"),
        ("vit", policy.cacher.selection),
        ("pruner", policy.pruner.method),
        ("llm", "default"),
    )


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


def vit_interface(vision: VisionDims, dtype: DType, selection: Selection) -> Interface:
    """Return the interface of ``vit`` with a selection."""
    patches = (vision.tokens, vision.width)
    return Interface(
        (
            TensorSpec("patch_embeddings", dtype, patches),
            TensorSpec(SELECTION_INPUTS[selection], "int64", ("R",)),
            *vit_state(vision, dtype, selection, "in"),
        ),
        (TensorSpec("features", dtype, patches), *vit_state(vision, dtype, selection, "out")),
    )


def pruner_interface(dims: ModelDims, dtype: DType, history_width: int, inputs: Sequence[str]) -> Interface:
    """Return the interface of ``pruner`` with a method.

    Args:
        dims: Sizes.
        dtype: Type of features and visual tokens.
        history_width: E, elements of a history entry; 0 without history.
        inputs: What the method takes beside the features, of ``history``, ``history_weights``, ``alpha``,
            ``noise`` and ``carrier``. Without a carrier it keeps all M tokens.
    """
    vision, width = dims.vision, dims.text.width
    kept: int | str = "K" if "carrier" in inputs else vision.visual_tokens
    known = {
        "history": TensorSpec("history", "float32", ("W", history_width)),
        "history_weights": TensorSpec("history_weights", "float32", ("W",)),
        "alpha": TensorSpec("alpha", "float32", (1,)),
        "noise": TensorSpec("noise", "float32", (vision.visual_tokens,)),
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


def llm_interface(text: TextDims, dtype: DType) -> Interface:
    """Return the interface of ``llm``: past keys and values of P slots go in, those of the S new tokens come out."""

    def cache(suffix: str, letter: str) -> list[TensorSpec]:
        shape = (1, text.kv_heads, letter, text.head_dim)
        names = (f"{name}_{layer}_{suffix}" for name in ("key", "value") for layer in range(text.layers))
        return [TensorSpec(name, dtype, shape) for name in names]

    return Interface(
        (
            TensorSpec("inputs_embeds", dtype, (1, "S", text.width)),
            TensorSpec("position_ids", "int64", (1, "S")),
            TensorSpec("past_bias", dtype, (1, "P")),
            *cache("in", "P"),
        ),
        (TensorSpec("logits", "float32", (1, text.vocab)), *cache("out", "S")),
    )
