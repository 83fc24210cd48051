"""Bounds against figures worked out by hand, and laws that any roofline obeys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_calib.schemes import SCHEMES
from stc_engines import Target, find_target, load_targets
from stc_engines.table import Throughput
from stc_export.pipeline.bounds import stage_bounds
from stc_export.pipeline.precisions import Precisions
from stc_export.pipeline.types import StageBound
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.policy import Budget, CacherPolicy, MemoryPolicy, Policy, PrunerPolicy

#: C = 4, mlp 8, T = 16 in a grid of 4, M = 4; D = 8, q = 8, kv = 4, mlp 16, 3 layers, 10 words.
DIMS = ModelDims(
    vision=VisionDims(image_size=56, patch_size=14, width=4, mlp_width=8, heads=2, layers=2),
    text=TextDims(
        width=8, mlp_width=16, heads=2, kv_heads=1, head_dim=4, layers=3, vocab=10, context=64, rope_theta=1e6
    ),
)
#: llava-onevision-qwen2-0.5b.
OV_05B = ModelDims(
    vision=VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26),
    text=TextDims(
        width=896,
        mlp_width=4864,
        heads=14,
        kv_heads=2,
        head_dim=64,
        layers=24,
        vocab=152_000,
        context=32_768,
        rope_theta=1e6,
    ),
)
POLICY = Policy(
    cacher=CacherPolicy(selection="gate", update_ratio=0.25),
    pruner=PrunerPolicy(keep=0.5),
    memory=MemoryPolicy(kv_tokens=30, answer_tokens=16),
)
#: 10^12 operations and 10^9 bytes a second: a millisecond is 10^9 operations or 10^6 bytes.
DEVICE = replace(
    find_target("jetson-orin-nano-8gb"),
    bandwidth_bytes_per_s=10**9,
    dense_throughput=(Throughput("fp16", 1.0),),
)

HALF = Precisions("fp16", {})


def bounds(target: Target = DEVICE, policy: Policy = POLICY, precisions: Precisions = HALF) -> dict[str, StageBound]:
    return {bound.stage: bound for bound in stage_bounds(DIMS, policy, precisions, target)}


def test_operations_are_those_of_the_graphs() -> None:
    found = {stage: bound.macs for stage, bound in bounds().items()}
    assert found == {
        "gate": 16 * 3 * 14**2 * 4,
        # per layer 4 x 16 x 16 projections, 2 x 16 x 16 x 4 attention, 2 x 16 x 4 x 8 MLP
        "vit full": 2 * (1024 + 2048 + 1024),
        "vit selective": 2 * (4 * 4 * 16 + 2 * 4 * 16 * 4 + 2 * 4 * 4 * 8),
        # T C D, pooling (2 x 16 + 4 x 4) x 8, M D^2
        "pruner": 16 * 4 * 8 + 48 * 8 + 4 * 64,
        # K = 2 tokens on 30: per layer and token 8 x (16 + 8 + 48) and 2 x 8 x 32
        "prefill": 3 * 2 * (576 + 512) + 80,
        "decode": 3 * (576 + 2 * 8 * 31) + 80,
    }


def test_bytes_are_weights_and_state_once() -> None:
    found = {stage: bound.moved_bytes for stage, bound in bounds().items()}
    frame, weights = 16 * 4, 2 * (4 * 16 + 2 * 4 * 8)
    state = 5 * frame  # delta, and keys and values of two layers
    llm, token = 3 * 576 + 80, 8 * 2 + 3 * 2 * 4 * 2  # an embedding, and a key and a value in each layer
    kv = 30 * 3 * 2 * 4 * 2
    assert found == {
        "gate": 3 * 56 * 56 + 2 * (3 * 14**2 * 4 + 2 * frame),
        "vit full": 2 * (weights + 2 * frame + state),
        "vit selective": 2 * (weights + 2 * frame + state + state // 4),
        "pruner": 2 * (4 * 8 + 64 + frame + 2 * 8),
        "prefill": 2 * llm + kv + 2 * token,
        "decode": 2 * llm + kv + token,
    }


@pytest.mark.parametrize(
    ("backend", "precision", "layer"),
    [
        # 576 weights of a layer; its 72 rows are 16 of q, k and v, 8 and 8 of the outputs, 32 of gate and up, and 8.
        ("ort", "int4", 576 // 2 + 576 // 32 * 2),
        ("ort", "int8", 576 + 576 // 32 * 2),
        ("trt", "int8", 576 + 64 * 2),
    ],
)
def test_weights_of_few_bits_count_codes_and_scales(backend: Any, precision: str, layer: int) -> None:
    """The other stages, the output matrix and the operations stay as they are."""
    few = bounds(precisions=Precisions("fp16", {"llm": SCHEMES[backend]["llm"][precision]}))
    plain = bounds()
    for stage, bound in few.items():
        saved = 3 * (576 * 2 - layer) if stage in ("prefill", "decode") else 0
        assert (bound.macs, bound.moved_bytes) == (plain[stage].macs, plain[stage].moved_bytes - saved)


def test_whole_numbers_bound_the_linear_layers_of_the_vit_alone() -> None:
    """Attention, 2 x 16 x 16 x 4 in each of two layers, stays at 1e12 operations a second, 4,096 others go at 4e12."""
    target = replace(
        DEVICE, bandwidth_bytes_per_s=None, dense_throughput=(Throughput("fp16", 1.0), Throughput("int8", 4.0))
    )
    few = bounds(target, precisions=Precisions("fp16", {"vit": SCHEMES["ort"]["vit"]["int8"]}))
    assert few["vit full"].ms == pytest.approx((2 * 4096 / 4e12 + 2 * 4096 / 1e12) * 1e3)
    plain = bounds(target)
    assert plain["vit full"].ms == pytest.approx(2 * 8192 / 1e12 * 1e3)
    assert {name: few[name].ms for name in few if "vit" not in name} == {
        name: plain[name].ms for name in plain if "vit" not in name
    }
    # A layer has 4 x 16 + 2 x 32 weights, and 3 x 4 + 4 + 8 + 4 rows with a scale each.
    assert plain["vit full"].moved_bytes - few["vit full"].moved_bytes == 2 * (128 * 2 - 128 - 28 * 2)


@pytest.mark.parametrize(("budget", "runs", "given_tokens"), [("dycoke", 1, 2), ("vidcom2", 2, 6), ("dtd", 2, 6)])
def test_budget_that_looks_at_the_tokens_runs_the_pruner_twice(budget: Budget, runs: int, given_tokens: int) -> None:
    plain, found = bounds(), bounds(policy=replace(POLICY, pruner=PrunerPolicy(keep=0.5, budget=budget)))
    assert found["pruner"].macs == runs * plain["pruner"].macs
    # Weights and features each time; all M = 4 tokens the first time, K = 2 in the end.
    assert found["pruner"].moved_bytes == 2 * (runs * (4 * 8 + 64 + 64) + given_tokens * 8)
    assert {**found, "pruner": plain["pruner"]} == plain


def test_longer_of_the_two_is_the_bound() -> None:
    decode = bounds()["decode"]
    assert decode.limit == "memory"
    assert decode.ms == pytest.approx(decode.moved_bytes / 1e6)
    fast = replace(DEVICE, bandwidth_bytes_per_s=10**15)
    gate = bounds(fast)["gate"]
    assert gate.limit == "operations"
    assert gate.ms == pytest.approx(2 * gate.macs / 1e9)


def test_device_of_which_nothing_is_known_has_no_bound() -> None:
    for bound in bounds(find_target("cuda")).values():
        assert (bound.ms, bound.limit) == (None, None)
        assert bound.macs > 0


def test_precision_without_a_known_peak_is_bound_by_memory() -> None:
    for bound in stage_bounds(DIMS, POLICY, Precisions("fp32", {}), DEVICE):
        assert bound.limit == "memory"


@given(
    target=st.sampled_from([t for t in load_targets() if t.bandwidth_bytes_per_s]),
    ratio=st.floats(0.01, 1.0),
    keep=st.floats(0.01, 1.0),
)
def test_less_work_is_never_bound_to_take_longer(target: Target, ratio: float, keep: float) -> None:
    def of(ratio: float, keep: float) -> dict[str, StageBound]:
        return bounds(target, replace(POLICY, cacher=CacherPolicy(update_ratio=ratio), pruner=PrunerPolicy(keep=keep)))

    less, more = of(ratio, keep), of(1.0, 1.0)
    for stage, bound in less.items():
        assert bound.ms is not None
        assert bound.ms <= (more[stage].ms or 0)


@pytest.mark.parametrize("target", [t for t in load_targets() if t.bandwidth_bytes_per_s], ids=lambda t: t.name)
def test_targets_have_two_streams_where_a_full_frame_gains_a_tenth(target: Target) -> None:
    """One after the other, each stage takes the longer of operations and bytes; side by side, all of them together."""
    found = {bound.stage: bound for bound in stage_bounds(OV_05B, Policy(), HALF, target)}
    stages = [found[stage] for stage in ("gate", "vit full", "pruner", "prefill")]
    peak = next(row.tera_ops_per_s for row in target.dense_throughput if row.precision == "fp16")
    operations = 2 * sum(stage.macs for stage in stages) / (peak * 1e9)
    memory = sum(stage.moved_bytes for stage in stages) / ((target.bandwidth_bytes_per_s or 0) / 1e3)
    serial = sum(stage.ms or 0 for stage in stages)
    assert target.backend.streams == ("two" if 1 - max(operations, memory) / serial >= 0.1 else "one")
