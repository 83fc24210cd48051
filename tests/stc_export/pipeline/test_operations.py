"""Counts against figures worked out by hand, and against PyTorch's own count of the modules that are traced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stc_export.exporter.graphs import GraphDef, GraphForm
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.split import (
    gate_graph,
    llm_graph,
    pruner_graph,
    vit_gate_graph,
    vit_ranking_graph,
)
from stc_export.pipeline.operations import frame_macs, gate_macs, llm_macs, projector_macs, vit_macs
from stc_export.pruners import PRUNERS
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from tests.checkpoints import tiny_dims

SO400M = VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26)
#: C = 4, mlp 8, T = 4 in a grid of 2, M = 1; D = 8, q = 8, kv = 4, mlp 16.
SMALL = ModelDims(
    vision=VisionDims(image_size=28, patch_size=14, width=4, mlp_width=8, heads=2, layers=1),
    text=TextDims(
        width=8, mlp_width=16, heads=2, kv_heads=1, head_dim=4, layers=3, vocab=10, context=64, rope_theta=1e6
    ),
)
FORM = GraphForm("base", "float32", 64)
CONFIG = LlavaConfig(
    dims=tiny_dims(),
    vision_eps=1e-6,
    text_eps=1e-6,
    projector_act="gelu",
    projector_bias=True,
    vision_act="gelu_pytorch_tanh",
    tied=True,
    trained=False,
)


def counted(graph: GraphDef, **letters: int) -> int:
    """Multiply-accumulates of a graph's module as PyTorch counts them, on tensors without data."""
    with torch.device("meta"):
        module = graph.module().eval()
        flat = [
            torch.empty([letters[d] if isinstance(d, str) else d for d in spec.shape], dtype=getattr(torch, spec.dtype))
            for spec in graph.inputs
        ]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(*graph.nest(flat))
    return counter.get_total_flops() // 2


def test_vit_macs_of_siglip_full_pass_is_16_90_million_per_token_and_layer() -> None:
    # 4 * 1152^2 = 5,308,416; 2 * 1152 * 4304 = 9,916,416; 2 * 729 * 1152 = 1,679,616
    assert vit_macs(SO400M, "gate", 729) == 26 * 729 * 16_904_448


@pytest.mark.parametrize(("selection", "share"), [("gate", 0.2497), ("per_layer", 0.3086), ("shared", 0.3086)])
def test_vit_macs_of_siglip_at_182_tokens_are_the_share_of_the_method_page(selection: Any, share: float) -> None:
    assert vit_macs(SO400M, selection, 182) / vit_macs(SO400M, selection, 729) == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("selection", ["gate", "per_layer", "shared"])
def test_vit_macs_of_all_tokens_are_the_same_for_all_selections(selection: Any) -> None:
    assert vit_macs(SO400M, selection, 729) == vit_macs(SO400M, "gate", 729)


def test_small_counts_by_hand() -> None:
    assert gate_macs(SMALL.vision) == 4 * (3 * 14 * 14) * 4
    # One token: q, k, v, out 4 * 16; attention 2 * 4 * 4; MLP 2 * 4 * 8. Keys of the three others: 3 * 16.
    assert vit_macs(SMALL.vision, "gate", 1) == 64 + 32 + 64
    assert vit_macs(SMALL.vision, "shared", 1) == 64 + 32 + 64 + 48
    # 4 tokens 4 -> 8; pooling 1x2 by 2x16 and 1x2 by 2x8; 1 token 8 -> 8.
    assert projector_macs(SMALL) == 128 + (32 + 16) + 64
    # Two tokens on three: 8 * 16 + 8 * 8 + 3 * 8 * 16 = 576 each, attention 2 * 8 * 5 each; logits 8 * 10 once.
    assert llm_macs(SMALL.text, 2, 3) == 3 * 2 * (576 + 80) + 80
    assert llm_macs(SMALL.text, 1, 0) == 3 * (576 + 16) + 80


def test_frame_macs_of_a_skipped_frame_are_the_gates() -> None:
    assert frame_macs(SMALL, "gate", 0, 0, 100) == gate_macs(SMALL.vision)


def test_frame_macs_of_a_frame_that_keeps_nothing_have_no_prefill_and_count_every_run_of_the_pruner() -> None:
    once = frame_macs(SMALL, "shared", 1, 0, 3)
    assert once == 4 * 588 * 4 + 208 + 240
    assert frame_macs(SMALL, "shared", 1, 0, 3, pruner_runs=2) == once + 240


def test_frame_macs_of_an_encoded_frame_are_the_sum_of_its_graphs() -> None:
    assert frame_macs(SMALL, "shared", 1, 2, 3) == 4 * 588 * 4 + 208 + 240 + 4016


@pytest.mark.parametrize("recomputed", [1, 6, 25])
def test_vit_macs_gate_are_those_of_the_module(recomputed: int) -> None:
    graph = vit_gate_graph(CONFIG, FORM)
    assert vit_macs(CONFIG.dims.vision, "gate", recomputed) == counted(graph, R=recomputed)


@pytest.mark.parametrize("selection", ["per_layer", "shared"])
@pytest.mark.parametrize("recomputed", [1, 6, 25])
def test_vit_macs_ranking_are_those_of_the_module(selection: Any, recomputed: int) -> None:
    graph = vit_ranking_graph(CONFIG, FORM, selection, "cosine")
    assert vit_macs(CONFIG.dims.vision, selection, recomputed) == counted(graph, R=recomputed)


@pytest.mark.parametrize(("new", "past"), [(1, 64), (7, 64), (9, 3)])
def test_llm_macs_are_those_of_the_module(new: int, past: int) -> None:
    assert llm_macs(CONFIG.dims.text, new, past) == counted(llm_graph(CONFIG, FORM), S=new, P=past)


def test_gate_and_projector_macs_are_those_of_the_modules() -> None:
    plain = next(row for row in PRUNERS if row.name == "none")
    assert gate_macs(CONFIG.dims.vision) == counted(gate_graph(CONFIG, FORM, "cosine"))
    assert projector_macs(CONFIG.dims) == counted(pruner_graph(CONFIG, FORM, plain))
