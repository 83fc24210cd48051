"""The graphs of a LLaVA-OneVision with their interfaces: roles ``cacher_gate``, ``vit``, ``pruner`` and ``llm``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stc_export.exporter.graphs import DimRange, GraphDef, GraphForm, SplitModel, TableDef
from stc_export.families.llava_onevision.attention import received
from stc_export.families.llava_onevision.coding import CODINGS
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.decoder import Decoder
from stc_export.families.llava_onevision.metrics import METRICS
from stc_export.families.llava_onevision.parts import PARTS, Parts
from stc_export.families.llava_onevision.projector import PrunerGraph
from stc_export.families.llava_onevision.vision import EncoderParts, GateEncoder, PatchGate, RankingEncoder
from stc_export.families.llava_onevision.weights import EMBED, LLM, PROJECTOR, ROUNDED_HEAD, VISION, weight_files
from stc_export.pruners import ATTENTION_PRUNERS, PRUNERS, PrunerMethod
from stc_export.spec.interface import (
    KV_STATE,
    VIT_STATE,
    gate_interface,
    llm_interface,
    metric_variant,
    pruner_interface,
    vit_interface,
)
from stc_export.spec.manifest import PrunerEntry
from stc_export.spec.policy import Metric, Selection

#: Selections whose ``vit`` ranks the tokens itself, and whether it does in each layer.
_RANKING: Mapping[Selection, bool] = {"per_layer": True, "shared": False}

Pixels = tuple[tuple[float, ...], tuple[float, ...]]


def split_model(config: LlavaConfig, form: GraphForm, pixels: Pixels) -> SplitModel:
    """Describe all graphs and weights of a checkpoint.

    Args:
        config: Its sizes.
        form: Form of the graphs.
        pixels: Mean and standard deviation per channel for pixels in 0..1.
    """
    methods = (*PRUNERS, *(ATTENTION_PRUNERS if form.attention else ()))
    return SplitModel(
        graphs=(
            *(gate_graph(config, form, metric) for metric in form.metrics),
            vit_gate_graph(config, form),
            *(vit_ranking_graph(config, form, s, metric) for metric in form.metrics for s in _RANKING),
            *(pruner_graph(config, form, row) for row in methods),
            llm_graph(config, form),
        ),
        weights=weight_files(config, form, pixels),
        tables=(TableDef("embed", "embed"), TableDef("newline", "newline")),
        pruners=tuple(PrunerEntry(row.name, row.history, row.history_width(config.dims)) for row in methods),
    )


def _torch(form: GraphForm) -> Any:
    return getattr(torch, form.dtype)


def _parts(form: GraphForm) -> Parts:
    return PARTS[form.flavour, form.dtype]


def _encoder_parts(form: GraphForm) -> EncoderParts:
    return EncoderParts(_parts(form).vision_attention, (received,) if form.attention else ())


def gate_graph(config: LlavaConfig, form: GraphForm, metric: Metric) -> GraphDef:
    """``cacher_gate`` with a metric."""
    return GraphDef(
        role="cacher_gate",
        variant=metric_variant("default", metric),
        module=lambda: PatchGate(config, _torch(form), METRICS[metric]),
        interface=gate_interface(config.dims.vision, form.dtype),
        nest=tuple,
        dims={},
        weight_files=(VISION,),
        flavour=form.flavour,
    )


def vit_gate_graph(config: LlavaConfig, form: GraphForm) -> GraphDef:
    """``vit`` with selection ``gate``."""
    n = config.dims.vision.layers
    return GraphDef(
        role="vit",
        variant="gate",
        module=lambda: GateEncoder(config, _torch(form), _encoder_parts(form)),
        interface=vit_interface(config.dims.vision, form.dtype, "gate", attention=form.attention),
        nest=lambda flat: (*flat[:2], tuple(flat[2:4]), flat[4], list(flat[5 : 5 + n]), list(flat[5 + n :])),
        dims={"R": _recomputed(config)},
        weight_files=(VISION,),
        flavour=form.flavour,
    )


def _recomputed(config: LlavaConfig) -> DimRange:
    tokens = config.dims.vision.tokens
    return DimRange(1, tokens, max(2, tokens // 3))


def vit_ranking_graph(config: LlavaConfig, form: GraphForm, selection: Selection, metric: Metric) -> GraphDef:
    """``vit`` with selection ``per_layer`` or ``shared`` and a metric."""
    n, kinds = config.dims.vision.layers, len(VIT_STATE[selection])
    return GraphDef(
        role="vit",
        variant=metric_variant(selection, metric),
        module=lambda: RankingEncoder(
            config,
            _torch(form),
            _encoder_parts(form),
            METRICS[metric],
            rank_each_layer=_RANKING[selection],
        ),
        interface=vit_interface(config.dims.vision, form.dtype, selection, attention=form.attention),
        nest=lambda flat: (*flat[:2], [list(flat[2 + i * n : 2 + (i + 1) * n]) for i in range(kinds)]),
        dims={"R": _recomputed(config)},
        weight_files=(VISION,),
        flavour=form.flavour,
    )


def pruner_graph(config: LlavaConfig, form: GraphForm, row: PrunerMethod) -> GraphDef:
    """``pruner`` with one method."""
    visual_tokens = config.dims.vision.visual_tokens
    interface = pruner_interface(config.dims, form.dtype, row.history_width(config.dims), row.inputs)
    used = {letter for spec in interface.inputs for letter in spec.shape}
    dims = {"K": DimRange(1, visual_tokens, max(2, visual_tokens // 3)), "W": DimRange(1, 4096, 3)}
    return GraphDef(
        role="pruner",
        variant=row.name,
        module=lambda: PrunerGraph(config, _torch(form), row.factory(config.dims), row.inputs),
        interface=interface,
        nest=lambda flat: (flat[0], list(flat[1:])),
        dims={letter: bounds for letter, bounds in dims.items() if letter in used},
        weight_files=(PROJECTOR,),
        flavour=form.flavour,
    )


def llm_graph(config: LlavaConfig, form: GraphForm) -> GraphDef:
    """``llm``."""
    text = config.dims.text
    n, kinds = text.layers, len(KV_STATE[form.kv])
    interface = llm_interface(text, form.dtype, form.flavour, form.slots, form.kv)
    told = len(interface.inputs) - kinds * n
    parts = _parts(form)
    used = {letter for spec in interface.inputs for letter in spec.shape}
    dims = {"S": DimRange(1, text.context, 5), "P": DimRange(1, text.context, 11)}
    return GraphDef(
        role="llm",
        variant="default",
        module=lambda: Decoder(config, _torch(form), parts, parts.cache(CODINGS[form.kv])),
        interface=interface,
        nest=lambda flat: (
            *flat[:2],
            list(flat[2:told]),
            [list(flat[told + i * n : told + (i + 1) * n]) for i in range(kinds)],
        ),
        dims={letter: bounds for letter, bounds in dims.items() if letter in used},
        weight_files=(LLM, ROUNDED_HEAD) if form.head else (LLM, EMBED),
        flavour=form.flavour,
    )
