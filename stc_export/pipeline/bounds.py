"""How fast a device can be at best: a roofline per stage, from sizes alone.

A stage takes at least as long as its operations take at the device's peak, and at least as long as its bytes take at
the peak of its memory; the longer of the two is the bound. Nothing reaches both peaks: a bound is no prediction.

Operations are those of :mod:`stc_export.pipeline.operations`, two per multiply-accumulate. Bytes are the least that
must move: weights once, state once in and what changes of it out, inputs and outputs; all else stays on the chip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stc_export.pipeline.operations import (
    gate_macs,
    llm_layer_outputs,
    llm_layer_weights,
    llm_macs,
    projector_macs,
    vit_macs,
    vit_weights,
)
from stc_export.pipeline.types import StageBound
from stc_export.spec.interface import VIT_STATE
from stc_export.spec.manifest import DTYPE_BYTES
from stc_export.spec.memory import BUDGET_COSTS, kept_tokens, kv_budget
from stc_runtime.footprint import kv_bytes

if TYPE_CHECKING:
    from stc_engines.table import Target
    from stc_export.pipeline.precisions import Precisions
    from stc_export.spec.dims import ModelDims, TextDims
    from stc_export.spec.manifest import Precision
    from stc_export.spec.policy import Policy


def stage_bounds(dims: ModelDims, policy: Policy, precisions: Precisions, target: Target) -> tuple[StageBound, ...]:
    """Return the bounds of each stage: ``prefill`` of one frame, ``decode`` of one token, with the memory full.

    Args:
        dims: Sizes of the model.
        policy: Says R, K and how much the LLM remembers. K is that of ``pruner.keep``: with a budget that follows the
            content it is an assumption, and with ``dtd``, which does not read the key, a guess.
        precisions: Of weights and state. Weights of few bits are multiplied as floating point numbers.
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
    encoder = vit_weights(vision) + 2 * frame
    memory = _llm_bytes(text, precisions) + kv_bytes(dims, past, dtype)
    token = text.width * size + kv_bytes(dims, 1, dtype)
    work = (
        ("gate", gate_macs(vision), 3 * vision.image_size**2 + (patches + 2 * frame) * size),
        ("vit full", vit_macs(vision, selection, tokens), (encoder + state) * size),
        (
            "vit selective",
            vit_macs(vision, selection, recomputed),
            (encoder + state + state * recomputed // tokens) * size,
        ),
        ("pruner", runs * projector_macs(dims), (runs * (projector + frame) + given * text.width) * size),
        ("prefill", llm_macs(text, kept, past), memory + kept * token),
        ("decode", llm_macs(text, 1, past), memory + token),
    )
    return tuple(_bound(stage, macs, moved, target, precisions.floats) for stage, macs, moved in work)


def _llm_bytes(text: TextDims, precisions: Precisions) -> int:
    """Weights of the layers, rounded or not, and the output matrix."""
    size, layers = DTYPE_BYTES[precisions.dtype], llm_layer_weights(text) * text.layers
    head, scheme = text.width * text.vocab * size, precisions.schemes.get("llm")
    if scheme is None:
        return layers * size + head
    scales = llm_layer_outputs(text) * text.layers if scheme.block is None else layers // scheme.block
    return layers * scheme.bits // 8 + scales * size + head


def _bound(stage: str, macs: int, moved: int, target: Target, precision: Precision) -> StageBound:
    peak = next((row.tera_ops_per_s for row in target.dense_throughput if row.precision == precision), None)
    times = {
        "operations": None if peak is None else 2 * macs / (peak * 1e12) * 1e3,
        "memory": None if target.bandwidth_bytes_per_s is None else moved / target.bandwidth_bytes_per_s * 1e3,
    }
    known = {name: value for name, value in times.items() if value is not None}
    if not known:
        return StageBound(stage, macs, moved, None, None)
    longest = max(known, key=lambda name: known[name])
    return StageBound(stage, macs, moved, known[longest], "operations" if longest == "operations" else "memory")
