"""Bytes that a session reserves, from the sizes of the model and the policy alone.

``build --dry-run`` and the session use the same functions, and a test compares them with what is allocated.
"""

from __future__ import annotations

from stc_export.spec.dims import ModelDims
from stc_export.spec.interface import KV_STATE, VIT_STATE
from stc_export.spec.manifest import DTYPE_BYTES, DType, KVFormat
from stc_export.spec.policy import CacheUpdate, Selection


def cache_sets(update: CacheUpdate, *, in_place: bool) -> int:
    """Return how often the cache is there: once if what a frame gives may overwrite it, else twice.

    Args:
        update: A reference must survive the selective frames after it, a rolling cache need not.
        in_place: Whether the backend's graphs can write over what they read.
    """
    return 1 if update == "rolling" and in_place else 2


def feature_cache_bytes(
    dims: ModelDims, selection: Selection, update: CacheUpdate, dtype: DType, *, in_place: bool
) -> int:
    """Return the bytes of a session's feature cache with its outputs and the embeddings of frame and reference."""
    vision = dims.vision
    frame = vision.tokens * vision.width * DTYPE_BYTES[dtype]
    tensors = sum(vision.layers if tensor.scope == "layer" else 1 for tensor in VIT_STATE[selection])
    return tensors * frame * cache_sets(update, in_place=in_place) + 3 * frame


def kv_bytes(dims: ModelDims, capacity_tokens: int, dtype: DType, kv: KVFormat) -> int:
    """Return the bytes of keys and values of ``capacity_tokens`` slots in all layers.

    Args:
        dims: Sizes.
        capacity_tokens: Slots.
        dtype: Type of activations.
        kv: How keys and values are kept.
    """
    text = dims.text
    head = sum(tensor.width(text.head_dim) * DTYPE_BYTES[tensor.dtype or dtype] for tensor in KV_STATE[kv])
    return text.layers * text.kv_heads * head * capacity_tokens
