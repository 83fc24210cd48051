"""Bytes that a session reserves, from the sizes of the model and the policy alone.

``build --dry-run`` and the session use the same functions, and a test compares them with what is allocated.
"""

from __future__ import annotations

from stc_export.spec.dims import ModelDims
from stc_export.spec.errors import PolicyError, ResourceError
from stc_export.spec.interface import VIT_STATE
from stc_export.spec.manifest import DTYPE_BYTES, DType
from stc_export.spec.policy import CacheUpdate, MemoryPolicy, Selection

#: Copies of the cache: a rolling cache is updated in place; a reference must survive the selective frames after it.
_CACHE_COPIES: dict[CacheUpdate, int] = {"rolling": 1, "reference": 2}
#: Visual memory that is kept by default where the model's context allows it.
_DEFAULT_KV_TOKENS = 8192


def feature_cache_bytes(dims: ModelDims, selection: Selection, update: CacheUpdate, dtype: DType) -> int:
    """Return the bytes of a session's feature cache with its output buffers and reference embeddings."""
    vision = dims.vision
    frame = vision.tokens * vision.width * DTYPE_BYTES[dtype]
    tensors = sum(vision.layers if tensor.scope == "layer" else 1 for tensor in VIT_STATE[selection])
    reference_and_features = 2 * frame
    return tensors * frame * _CACHE_COPIES[update] + reference_and_features


def kv_budget(memory: MemoryPolicy, context: int) -> int:
    """Return the tokens that the stream's memory may hold.

    By default half of what the context leaves beside the answer, at most 8,192: with as many positions free as tokens
    kept, positions are renumbered at most once per turnover of the memory.

    Raises:
        PolicyError: ``memory.kv_tokens`` does not fit the model's context beside the answer.
        ResourceError: ``memory.answer_tokens`` alone does not fit it.
    """
    room = context - memory.answer_tokens
    if room < 2:
        raise ResourceError(
            f"memory.answer_tokens is {memory.answer_tokens}, the model's context is {context}.",
            "Lower it in the policy.",
        )
    if memory.kv_tokens is None:
        return min(_DEFAULT_KV_TOKENS, room // 2)
    if memory.kv_tokens > room:
        raise PolicyError(
            f"memory.kv_tokens is {memory.kv_tokens}, but the model's context of {context} leaves {room} beside "
            f"{memory.answer_tokens} for the answer.",
            f"Set memory.kv_tokens to at most {room}.",
        )
    return memory.kv_tokens


def kv_bytes(dims: ModelDims, capacity_tokens: int, dtype: DType) -> int:
    """Return the bytes of keys and values of ``capacity_tokens`` slots in all layers."""
    text = dims.text
    return 2 * text.layers * text.kv_heads * text.head_dim * capacity_tokens * DTYPE_BYTES[dtype]
