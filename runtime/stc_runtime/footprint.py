"""Bytes that a session reserves, from the sizes of the model and the policy alone.

``build --dry-run`` and the session use the same functions, and a test compares them with what is allocated.
"""

from __future__ import annotations

from stc_export.spec.dims import ModelDims
from stc_export.spec.interface import VIT_STATE
from stc_export.spec.manifest import DTYPE_BYTES, DType
from stc_export.spec.policy import CacheUpdate, Selection

#: Copies of the cache: a rolling cache is updated in place; a reference must survive the selective frames after it.
_CACHE_COPIES: dict[CacheUpdate, int] = {"rolling": 1, "reference": 2}


def feature_cache_bytes(dims: ModelDims, selection: Selection, update: CacheUpdate, dtype: DType) -> int:
    """Return the bytes of a session's feature cache with its output buffers and reference embeddings."""
    vision = dims.vision
    frame = vision.tokens * vision.width * DTYPE_BYTES[dtype]
    tensors = sum(vision.layers if tensor.scope == "layer" else 1 for tensor in VIT_STATE[selection])
    reference_and_features = 2 * frame
    return tensors * frame * _CACHE_COPIES[update] + reference_and_features


def kv_bytes(dims: ModelDims, capacity_tokens: int, dtype: DType) -> int:
    """Return the bytes of keys and values of ``capacity_tokens`` slots in all layers."""
    text = dims.text
    return 2 * text.layers * text.kv_heads * text.head_dim * capacity_tokens * DTYPE_BYTES[dtype]
