"""Multiply-accumulate counts (MACs) of the graphs, from sizes alone: what bounds a speed-up.

Counted are matrix products: linear layers, both products of attention, pooling. Not counted: norms, activations,
softmax, ranking, copies; all of them together are below 1 % of the products of a full pass. The counts are those of
our graphs: new tokens of a prefill see each other through a mask, so all S x S scores are computed.

A bound is the ratio of two counts: the speed-up of an ideal machine whose time is proportional to its MACs. It is not
a limit where time goes into reading weights: a decoding step reads all of them for one token.

Letters are those of :mod:`stc_export.spec.dims`; ``mlp`` is the hidden width of an MLP.
"""

from __future__ import annotations

from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.memory import kv_budget
from stc_export.spec.policy import Policy, Selection
from stc_export.validate.types import Work


def gate_macs(vision: VisionDims) -> int:
    """``cacher_gate``: one product per patch, T * 3 patch_size^2 * C."""
    return vision.tokens * 3 * vision.patch_size**2 * vision.width


def vit_macs(vision: VisionDims, selection: Selection, recomputed: int) -> int:
    """``vit`` with R = ``recomputed`` tokens; R = T is the full pass, the same for all selections.

    Per layer: q, v and output projection 3 R C^2; keys R C^2 for ``gate`` and T C^2 for the others, which project the
    keys of all tokens; attention of R queries over T keys 2 R T C; MLP 2 R C mlp.
    """
    width = vision.width
    keys = recomputed if selection == "gate" else vision.tokens
    projections = (3 * recomputed + keys) * width**2
    mlp = 2 * recomputed * width * vision.mlp_width
    return vision.layers * (projections + mlp) + vit_attention_macs(vision, recomputed)


def vit_attention_macs(vision: VisionDims, recomputed: int) -> int:
    """Both products of attention in all layers of ``vit``: 2 R T C each."""
    return vision.layers * 2 * recomputed * vision.tokens * vision.width


def projector_macs(dims: ModelDims) -> int:
    """Front of every ``pruner``: first layer on T tokens, pooling, second layer on M tokens.

    T C D + (m g^2 + m^2 g) D + M D^2 with the grid's sides g and, pooled, m: pooling is two products, one per axis.
    """
    vision, width = dims.vision, dims.text.width
    grid, pooled = vision.grid, vision.pooled_grid
    pooling = (pooled * grid**2 + pooled**2 * grid) * width
    return vision.tokens * vision.width * width + pooling + vision.visual_tokens * width**2


def llm_macs(text: TextDims, new: int, past: int) -> int:
    """``llm`` with S = ``new`` tokens on P = ``past``; S = 1 is a decoding step.

    Per layer and new token, with q = heads * head_dim and kv = kv_heads * head_dim: q/k/v D (q + 2 kv), output q D,
    MLP 3 D mlp, attention 2 q (P + S). Once per call: logits of the last token, D * vocab.
    """
    attention = 2 * text.heads * text.head_dim * (past + new)
    return text.layers * new * (llm_layer_weights(text) + attention) + text.width * text.vocab


def vit_weights(vision: VisionDims) -> int:
    """Elements of the matrices of ``vit``: per layer q, k, v, output 4 C^2 and MLP 2 C mlp."""
    return vision.layers * (4 * vision.width**2 + 2 * vision.width * vision.mlp_width)


def vit_outputs(vision: VisionDims) -> int:
    """Rows of those matrices: per layer q, k, v, output 4 C and MLP C + mlp."""
    return vision.layers * (5 * vision.width + vision.mlp_width)


def llm_layer_outputs(text: TextDims) -> int:
    """Rows of the matrices of one layer of ``llm``."""
    return (text.heads + 2 * text.kv_heads) * text.head_dim + 2 * text.width + 2 * text.mlp_width


def llm_layer_weights(text: TextDims) -> int:
    """Elements of the matrices of one layer of ``llm``."""
    q_width, kv_width = text.heads * text.head_dim, text.kv_heads * text.head_dim
    return text.width * (2 * q_width + 2 * kv_width + 3 * text.mlp_width)


def frame_macs(
    dims: ModelDims, selection: Selection, recomputed: int, kept: int, past: int, pruner_runs: int = 1
) -> int:
    """A whole frame: gate, and unless R = ``recomputed`` is 0 (a skipped frame) ViT, projector and prefill.

    Args:
        dims: Sizes.
        selection: Who names the R tokens.
        recomputed: R.
        kept: K, tokens that the LLM gets; it does not run for none.
        past: Tokens that the LLM remembers before the frame.
        pruner_runs: Runs of the pruner graph (:data:`stc_export.spec.memory.BUDGET_COSTS`).
    """
    if not recomputed:
        return gate_macs(dims.vision)
    encoded = gate_macs(dims.vision) + vit_macs(dims.vision, selection, recomputed)
    prefill = llm_macs(dims.text, kept, past) if kept else 0
    return encoded + pruner_runs * projector_macs(dims) + prefill


def stream_macs(dims: ModelDims, policy: Policy, work: Work) -> int:
    """ViT and prefill of what a stream did, as if its memory had been full: so it is for most of an endless stream.

    Exact where all encoded frames keep the same number of tokens, as with ``pruner.budget`` ``fixed``; else they are
    taken as shared out evenly.

    Args:
        dims: Sizes.
        policy: What the stream ran under.
        work: Counts over all its frames.
    """
    encoded = work.full + work.selective
    if not encoded:
        return 0
    vision, selection = dims.vision, policy.cacher.selection
    keys = vit_macs(vision, selection, 0)  # what a frame costs whatever is recomputed; the rest is linear in R
    vit = encoded * keys + vit_macs(vision, selection, work.vit_recomputed) - keys
    past = kv_budget(policy.memory, dims.text.context)
    each, more = divmod(work.kept_tokens, encoded)
    prefill = [(encoded - more, each), (more, each + 1)]
    return vit + sum(frames * llm_macs(dims.text, kept, past) for frames, kept in prefill if kept)
