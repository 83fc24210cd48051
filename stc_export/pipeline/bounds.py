"""How fast a device can be at best: a roofline per stage, from sizes alone.

A stage takes at least as long as its operations take at the device's peak, and at least as long as its bytes take at
the peak of its memory; the longer of the two is the bound. Nothing reaches both peaks: a bound is no prediction.

Operations are those of :mod:`stc_export.pipeline.operations`, two per multiply-accumulate. Bytes are the least that
must move: weights once, state once in and what changes of it out, inputs and outputs; all else stays on the chip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stc_export.pipeline.operations import (
    gate_macs,
    llm_layer_outputs,
    llm_layer_weights,
    llm_macs,
    projector_macs,
    vit_attention_macs,
    vit_macs,
    vit_outputs,
    vit_weights,
)
from stc_export.pipeline.types import StageBound
from stc_export.spec.interface import VIT_STATE
from stc_export.spec.manifest import DTYPE_BYTES
from stc_export.spec.memory import BUDGET_COSTS, kept_tokens, kv_budget
from stc_runtime.footprint import kv_bytes

if TYPE_CHECKING:
    from stc_engines.table import Target, TargetPrecision
    from stc_export.pipeline.precisions import Precisions
    from stc_export.spec.dims import ModelDims, TextDims
    from stc_export.spec.manifest import Role
    from stc_export.spec.policy import Policy


def stage_bounds(dims: ModelDims, policy: Policy, precisions: Precisions, target: Target) -> tuple[StageBound, ...]:
    """Return the bounds of each stage: ``prefill`` of one frame, ``decode`` of one token, with the memory full.

    Args:
        dims: Sizes of the model.
        policy: Says R, K and how much the LLM remembers. K is that of ``pruner.keep``: with a budget that follows the
            content it is an assumption, and with ``dtd``, which does not read the key, a guess.
        precisions: Of weights and state. Weights of few bits are multiplied as floating point numbers, unless
            activations are rounded as well; attention always is.
        target: The device.
    """
    dtype = precisions.dtype
    vision, text = dims.vision, dims.text
    size, tokens = DTYPE_BYTES[dtype], vision.tokens
    frame, selection = tokens * vision.width, policy.cacher.selection
    recomputed = kept_tokens(tokens, policy.cacher.update_ratio)
    kept = kept_tokens(vision.visual_tokens, policy.pruner.keep)
    runs = BUDGET_COSTS[policy.pruner.budget].pruner_runs
    given = (runs - 1) * vision.visual_tokens + kept
    past = kv_budget(policy.memory, text.context)
    state = frame * sum(vision.layers if tensor.scope == "layer" else 1 for tensor in VIT_STATE[selection])
    patches = 3 * vision.patch_size**2 * vision.width
    projector = vision.width * text.width + text.width**2
    encoder = _rounded(vit_weights(vision), vit_outputs(vision), precisions, "vit") + 2 * frame * size
    memory = _llm_bytes(text, precisions) + kv_bytes(dims, past, dtype, precisions.kv)
    token = text.width * size + kv_bytes(dims, 1, dtype, precisions.kv)
    work = (
        ("gate", gate_macs(vision), 3 * vision.image_size**2 + (patches + 2 * frame) * size),
        ("vit full", vit_macs(vision, selection, tokens), encoder + state * size),
        (
            "vit selective",
            vit_macs(vision, selection, recomputed),
            encoder + (state + state * recomputed // tokens) * size,
        ),
        ("pruner", runs * projector_macs(dims), (runs * (projector + frame) + given * text.width) * size),
        ("prefill", llm_macs(text, kept, past), memory + kept * token),
        ("decode", llm_macs(text, 1, past), memory + token),
    )
    attention = {
        "vit full": vit_attention_macs(vision, tokens),
        "vit selective": vit_attention_macs(vision, recomputed),
    }
    return tuple(
        _bound(StageBound(stage, macs, moved, None, None), target, _precise(macs, attention.get(stage), precisions))
        for stage, macs, moved in work
    )


def _llm_bytes(text: TextDims, precisions: Precisions) -> int:
    """Weights of the layers, rounded or not, and the output matrix."""
    weights, outputs = text.layers * llm_layer_weights(text), text.layers * llm_layer_outputs(text)
    return _rounded(weights, outputs, precisions, "llm") + text.width * text.vocab * DTYPE_BYTES[precisions.dtype]


def _rounded(weights: int, outputs: int, precisions: Precisions, role: Role) -> int:
    """Bytes of the linear layers of a role with so many weights and rows."""
    size, scheme = DTYPE_BYTES[precisions.dtype], precisions.schemes.get(role)
    if scheme is None:
        return weights * size
    scales = outputs if scheme.block is None else weights // scheme.block
    return weights * scheme.bits // 8 + scales * size


def _precise(macs: int, attention: int | None, precisions: Precisions) -> tuple[tuple[TargetPrecision, int], ...]:
    """Return the operations of a stage by precision; ``attention``: of the ViT, whose linear layers may be rounded."""
    if attention is None:
        return ((precisions.floats, macs),)
    return (precisions.products("vit"), macs - attention), (precisions.floats, attention)


def _bound(stage: StageBound, target: Target, work: tuple[tuple[TargetPrecision, int], ...]) -> StageBound:
    """Fill in what limits a stage."""
    memory = None if target.bandwidth_bytes_per_s is None else stage.moved_bytes / target.bandwidth_bytes_per_s * 1e3
    times = {"operations": _operations_ms(target, work), "memory": memory}
    known = {name: value for name, value in times.items() if value is not None}
    if not known:
        return stage
    longest = max(known, key=lambda name: known[name])
    return replace(stage, ms=known[longest], limit="operations" if longest == "operations" else "memory")


def _operations_ms(target: Target, work: tuple[tuple[TargetPrecision, int], ...]) -> float | None:
    peaks = {row.precision: row.tera_ops_per_s for row in target.dense_throughput}
    if any(precision not in peaks for precision, _ in work):
        return None
    return sum(2 * macs / (peaks[precision] * 1e12) * 1e3 for precision, macs in work)
