"""The graphs of a LLaVA-OneVision with their interfaces: roles ``cacher_gate``, ``vit``, ``pruner`` and ``llm``."""

from __future__ import annotations

import torch

from stc_export.exporter.graphs import DimRange, GraphDef, SplitModel, TableDef
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.decoder import Decoder
from stc_export.families.llava_onevision.projector import PrunerGraph
from stc_export.families.llava_onevision.vision import GateEncoder, PatchGate, RankingEncoder
from stc_export.families.llava_onevision.weights import EMBED, LLM, PROJECTOR, VISION, weight_files
from stc_export.pruners import PRUNERS, PrunerMethod
from stc_export.spec.manifest import DType, PrunerEntry, TensorSpec

Pixels = tuple[tuple[float, ...], tuple[float, ...]]


def split_model(config: LlavaConfig, dtype: DType, pixels: Pixels) -> SplitModel:
    """Describe all graphs and weights of a checkpoint.

    Args:
        config: Its sizes.
        dtype: Type of activations and large weights.
        pixels: Mean and standard deviation per channel for pixels in 0..1.
    """
    return SplitModel(
        graphs=(
            gate_graph(config, dtype),
            vit_gate_graph(config, dtype),
            vit_ranking_graph(config, dtype, "per_layer"),
            vit_ranking_graph(config, dtype, "shared"),
            *(pruner_graph(config, dtype, row) for row in PRUNERS),
            llm_graph(config, dtype),
        ),
        weights=weight_files(config, dtype, pixels),
        tables=(TableDef("embed", "embed"), TableDef("newline", "newline")),
        pruners=tuple(PrunerEntry(row.name, row.history, row.history_width(config.dims.text.width)) for row in PRUNERS),
    )


def gate_graph(config: LlavaConfig, dtype: DType) -> GraphDef:
    """``cacher_gate``."""
    vision = config.dims.vision
    patches = (vision.tokens, vision.width)
    return GraphDef(
        role="cacher_gate",
        variant="default",
        module=lambda: PatchGate(config, getattr(torch, dtype)),
        inputs=(
            TensorSpec("frame", "uint8", (vision.image_size, vision.image_size, 3)),
            TensorSpec("reference", dtype, patches),
        ),
        outputs=(
            TensorSpec("patch_embeddings", dtype, patches),
            TensorSpec("similarity", "float32", (vision.tokens,)),
            TensorSpec("statistics", "float32", (3,)),
        ),
        nest=tuple,
        dims={},
        weight_files=(VISION,),
    )


def _layered(name: str, layers: int, suffix: str, dtype: DType, shape: tuple[int | str, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{name}_{i}_{suffix}", dtype, shape) for i in range(layers))


def vit_gate_graph(config: LlavaConfig, dtype: DType) -> GraphDef:
    """``vit`` with selection ``gate``."""
    vision = config.dims.vision
    n, patches = vision.layers, (vision.tokens, vision.width)
    heads = (vision.heads, vision.tokens, vision.head_dim)
    return GraphDef(
        role="vit",
        variant="gate",
        module=lambda: GateEncoder(config, getattr(torch, dtype)),
        inputs=(
            TensorSpec("patch_embeddings", dtype, patches),
            TensorSpec("indices", "int64", ("R",)),
            TensorSpec("delta_in", dtype, patches),
            *_layered("key", n, "in", dtype, heads),
            *_layered("value", n, "in", dtype, heads),
        ),
        outputs=(
            TensorSpec("features", dtype, patches),
            TensorSpec("delta_out", dtype, patches),
            *_layered("key", n, "out", dtype, heads),
            *_layered("value", n, "out", dtype, heads),
        ),
        nest=lambda flat: (*flat[:3], list(flat[3 : 3 + n]), list(flat[3 + n :])),
        dims={"R": _recomputed(config)},
        weight_files=(VISION,),
    )


def _recomputed(config: LlavaConfig) -> DimRange:
    tokens = config.dims.vision.tokens
    return DimRange(1, tokens, max(2, tokens // 3))


def vit_ranking_graph(config: LlavaConfig, dtype: DType, selection: str) -> GraphDef:
    """``vit`` with selection ``per_layer`` or ``shared``."""
    vision = config.dims.vision
    n, patches = vision.layers, (vision.tokens, vision.width)
    heads = (vision.heads, vision.tokens, vision.head_dim)
    state = (("key", heads), ("value", heads), ("attention", patches), ("mlp", patches))

    def ports(suffix: str) -> tuple[TensorSpec, ...]:
        return tuple(spec for name, shape in state for spec in _layered(name, n, suffix, dtype, shape))

    return GraphDef(
        role="vit",
        variant=selection,
        module=lambda: RankingEncoder(config, getattr(torch, dtype), rank_each_layer=selection == "per_layer"),
        inputs=(
            TensorSpec("patch_embeddings", dtype, patches),
            TensorSpec("carrier", "int64", ("R",)),
            *ports("in"),
        ),
        outputs=(TensorSpec("features", dtype, patches), *ports("out")),
        nest=lambda flat: (*flat[:2], [list(flat[2 + i * n : 2 + (i + 1) * n]) for i in range(len(state))]),
        dims={"R": _recomputed(config)},
        weight_files=(VISION,),
    )


def pruner_graph(config: LlavaConfig, dtype: DType, row: PrunerMethod) -> GraphDef:
    """``pruner`` with one method."""
    vision, width = config.dims.vision, config.dims.text.width
    entry = row.history_width(width)
    kept: int | str = "K" if "carrier" in row.inputs else vision.visual_tokens
    known = {
        "history": TensorSpec("history", "float32", ("W", entry)),
        "history_weights": TensorSpec("history_weights", "float32", ("W",)),
        "alpha": TensorSpec("alpha", "float32", (1,)),
        "carrier": TensorSpec("carrier", "int64", ("K",)),
        "visual_tokens": TensorSpec("visual_tokens", dtype, (kept, width)),
        "kept_indices": TensorSpec("kept_indices", "int64", (kept,)),
        "history_entry": TensorSpec("history_entry", "float32", (entry,)),
    }
    dims = {"K": DimRange(1, vision.visual_tokens, max(2, vision.visual_tokens // 3)), "W": DimRange(1, 4096, 3)}
    inputs = (TensorSpec("features", dtype, (vision.tokens, vision.width)), *(known[name] for name in row.inputs))
    used = {letter for spec in inputs for letter in spec.shape}
    return GraphDef(
        role="pruner",
        variant=row.name,
        module=lambda: PrunerGraph(config, getattr(torch, dtype), row.factory(config.dims)),
        inputs=inputs,
        outputs=tuple(known[name] for name in row.outputs),
        nest=lambda flat: (flat[0], list(flat[1:])),
        dims={letter: bounds for letter, bounds in dims.items() if letter in used},
        weight_files=(PROJECTOR,),
    )


def llm_graph(config: LlavaConfig, dtype: DType) -> GraphDef:
    """``llm``."""
    text = config.dims.text
    n = text.layers
    past, new = ((1, text.kv_heads, letter, text.head_dim) for letter in "PS")
    return GraphDef(
        role="llm",
        variant="default",
        module=lambda: Decoder(config, getattr(torch, dtype)),
        inputs=(
            TensorSpec("inputs_embeds", dtype, (1, "S", text.width)),
            TensorSpec("position_ids", "int64", (1, "S")),
            TensorSpec("past_bias", dtype, (1, "P")),
            *_layered("key", n, "in", dtype, past),
            *_layered("value", n, "in", dtype, past),
        ),
        outputs=(
            TensorSpec("logits", "float32", (1, text.vocab)),
            *_layered("key", n, "out", dtype, new),
            *_layered("value", n, "out", dtype, new),
        ),
        nest=lambda flat: (*flat[:3], list(flat[3 : 3 + n]), list(flat[3 + n :])),
        dims={
            "S": DimRange(1, text.context, 5),
            "P": DimRange(1, text.context, 11),
        },
        weight_files=(LLM, EMBED),
    )
