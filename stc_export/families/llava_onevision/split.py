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
from stc_export.spec.interface import VIT_STATE, gate_interface, llm_interface, pruner_interface, vit_interface
from stc_export.spec.manifest import DType, PrunerEntry
from stc_export.spec.policy import Selection

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
    return GraphDef(
        role="cacher_gate",
        variant="default",
        module=lambda: PatchGate(config, getattr(torch, dtype)),
        interface=gate_interface(config.dims.vision, dtype),
        nest=tuple,
        dims={},
        weight_files=(VISION,),
    )


def vit_gate_graph(config: LlavaConfig, dtype: DType) -> GraphDef:
    """``vit`` with selection ``gate``."""
    n = config.dims.vision.layers
    return GraphDef(
        role="vit",
        variant="gate",
        module=lambda: GateEncoder(config, getattr(torch, dtype)),
        interface=vit_interface(config.dims.vision, dtype, "gate"),
        nest=lambda flat: (*flat[:3], list(flat[3 : 3 + n]), list(flat[3 + n :])),
        dims={"R": _recomputed(config)},
        weight_files=(VISION,),
    )


def _recomputed(config: LlavaConfig) -> DimRange:
    tokens = config.dims.vision.tokens
    return DimRange(1, tokens, max(2, tokens // 3))


def vit_ranking_graph(config: LlavaConfig, dtype: DType, selection: Selection) -> GraphDef:
    """``vit`` with selection ``per_layer`` or ``shared``."""
    n, kinds = config.dims.vision.layers, len(VIT_STATE[selection])
    return GraphDef(
        role="vit",
        variant=selection,
        module=lambda: RankingEncoder(config, getattr(torch, dtype), rank_each_layer=selection == "per_layer"),
        interface=vit_interface(config.dims.vision, dtype, selection),
        nest=lambda flat: (*flat[:2], [list(flat[2 + i * n : 2 + (i + 1) * n]) for i in range(kinds)]),
        dims={"R": _recomputed(config)},
        weight_files=(VISION,),
    )


def pruner_graph(config: LlavaConfig, dtype: DType, row: PrunerMethod) -> GraphDef:
    """``pruner`` with one method."""
    visual_tokens = config.dims.vision.visual_tokens
    interface = pruner_interface(config.dims, dtype, row.history_width(config.dims.text.width), row.inputs)
    used = {letter for spec in interface.inputs for letter in spec.shape}
    dims = {"K": DimRange(1, visual_tokens, max(2, visual_tokens // 3)), "W": DimRange(1, 4096, 3)}
    return GraphDef(
        role="pruner",
        variant=row.name,
        module=lambda: PrunerGraph(config, getattr(torch, dtype), row.factory(config.dims)),
        interface=interface,
        nest=lambda flat: (flat[0], list(flat[1:])),
        dims={letter: bounds for letter, bounds in dims.items() if letter in used},
        weight_files=(PROJECTOR,),
    )


def llm_graph(config: LlavaConfig, dtype: DType) -> GraphDef:
    """``llm``."""
    text = config.dims.text
    n = text.layers
    return GraphDef(
        role="llm",
        variant="default",
        module=lambda: Decoder(config, getattr(torch, dtype)),
        interface=llm_interface(text, dtype),
        nest=lambda flat: (*flat[:3], list(flat[3 : 3 + n]), list(flat[3 + n :])),
        dims={"S": DimRange(1, text.context, 5), "P": DimRange(1, text.context, 11)},
        weight_files=(LLM, EMBED),
    )
