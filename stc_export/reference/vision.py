"""A frame through the encoder layers of the original model: full, and selective by each of the three selections.

Written from the published steps (STC paper, arXiv 2512.00891, section 3.3; docs/method.md), with transformers' own
norms, projections, attention and MLPs. All functions are pure: they return a new cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stc_export.reference.metrics import Similarity
from stc_export.spec.policy import Selection


@dataclass(frozen=True, eq=False)
class LayerCache:
    """What a frame leaves behind in a layer, all [T, C]: keys, values, attention output, MLP output."""

    key: Tensor
    value: Tensor
    attention: Tensor
    mlp: Tensor


@dataclass(frozen=True, eq=False)
class FrameCache:
    """What a frame leaves behind.

    Attributes:
        layers: Per layer.
        delta: [T, C], what all layers together added to the input.
    """

    layers: tuple[LayerCache, ...]
    delta: Tensor


@dataclass(frozen=True, eq=False)
class LastLayer:
    """What the last layer tells of its tokens.

    Attributes:
        attention: What each received, float32 [T]; see :func:`received`.
        keys: Those that the frame leaves behind, the mean over heads [T, d].
    """

    attention: Tensor
    keys: Tensor


@dataclass(frozen=True, eq=False)
class Pass:
    """What the layers made of a frame: features [T, C], what the last one tells, and what the frame leaves behind."""

    features: Tensor
    last_layer: LastLayer
    cache: FrameCache


#: (layers, input [T, C], cache, indices int64 [R], metric of those that rank) -> what came of it, the cache mixed.
SelectivePass = Callable[[Sequence[Any], Tensor, FrameCache, Tensor, Similarity], Pass]


def full_pass(layers: Sequence[Any], start: Tensor) -> Pass:
    """Encode all tokens.

    Args:
        layers: transformers' encoder layers.
        start: Patch embeddings with positions [T, C].
    """
    x, kept = start, []
    for layer in layers:
        attention = layer.self_attn
        h = layer.layer_norm1(x)
        query, key, value = attention.q_proj(h), attention.k_proj(h), attention.v_proj(h)
        attended = attend(attention, query, key, value)
        x = x + attended
        added = layer.mlp(layer.layer_norm2(x))
        x = x + added
        kept.append(LayerCache(key, value, attended, added))
    return Pass(x, _told(attention, query, key, kept), FrameCache(tuple(kept), x - start))


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of R queries [R, C] over T keys and values [T, C], projected: [R, C].

    Args:
        attention: A ``SiglipAttention``.
        query: Projected queries.
        key: Projected keys.
        value: Projected values.
        bias: Added to the scores of each key, [T]; not for flash attention.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.siglip.modeling_siglip import eager_attention_forward

    run = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)  # noqa: SLF001 - transformers' own modules read it so
    heads = [x.unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)[None] for x in (query, key, value)]
    mask = None if bias is None else bias.expand(1, 1, len(query), len(key))
    mixed, _ = run(attention, *heads, mask, is_causal=False, scaling=attention.scale, dropout=0.0)
    projected: Tensor = attention.out_proj(mixed.reshape(len(query), -1))
    return projected


def received(attention: Any, query: Tensor, key: Tensor) -> Tensor:
    """Return the attention that tokens receive, the mean over heads and queries: float32 [T], whose sum is 1.

    Args:
        attention: A ``SiglipAttention``.
        query: Projected queries [R, C].
        key: Projected keys [T, C].
    """
    q, k = (x.unflatten(-1, (-1, attention.head_dim)).transpose(0, 1) for x in (query, key))
    return (q @ k.transpose(1, 2) * attention.scale).float().softmax(dim=-1).mean(dim=(0, 1))


def _told(attention: Any, query: Tensor, key: Tensor, kept: Sequence[LayerCache]) -> LastLayer:
    """Attention over the keys that the queries saw, and the keys as they are kept."""
    heads = kept[-1].key.float().unflatten(-1, (-1, attention.head_dim))
    return LastLayer(received(attention, query, key), heads.mean(dim=1))


def _gate(layers: Sequence[Any], start: Tensor, cache: FrameCache, indices: Tensor, _metric: Similarity) -> Pass:
    """``gate``: the given tokens in all layers; keys are cached as well, so no layer touches another token."""
    x, kept = start[indices], []
    for layer, old in zip(layers, cache.layers, strict=True):
        attention = layer.self_attn
        h = layer.layer_norm1(x)
        key = _mix(old.key, attention.k_proj(h), indices)
        value = _mix(old.value, attention.v_proj(h), indices)
        query = attention.q_proj(h)
        x = x + attend(attention, query, key, value)
        x = x + layer.mlp(layer.layer_norm2(x))
        kept.append(replace(old, key=key, value=value))
    delta = _mix(cache.delta, x - start[indices], indices)
    return Pass(start + delta, _told(attention, query, key, kept), FrameCache(tuple(kept), delta))


def carried(done: Pass, start: Tensor, before: FrameCache, indices: Tensor, gain: Tensor, drift: Tensor) -> Pass:
    """Say what becomes of the delta after a pass of selection ``gate``, full or selective (ours; docs/method.md).

    Args:
        done: The pass.
        start: Its input [T, C].
        before: The cache before it.
        indices: Tokens that were recomputed, int64 [R].
        gain: Share of the new delta in what is cached of each, float32 [R].
        drift: Weights of the sum by which all other tokens move, float32 [R].

    What is not finite has no part in it, so that a frame whose numbers overflowed does not stay in the cache.
    """
    old, new = before.delta[indices], done.cache.delta[indices]
    step = (new - old).float()
    moved = (drift[:, None] * torch.where(step.isfinite(), step, 0.0)).sum(0).to(old.dtype)
    share = gain[:, None].to(old.dtype)
    followed = before.delta + moved
    features = _mix(start + followed, done.features[indices], indices)
    kept = _mix(followed, share * new + (1 - share) * torch.where(old.isfinite(), old, new), indices)
    return replace(done, features=features, cache=replace(done.cache, delta=kept))


def _ranked(
    layers: Sequence[Any],
    start: Tensor,
    cache: FrameCache,
    count: int,
    rankings: Sequence[Similarity | None],
) -> Pass:
    """Layers that rank take the tokens whose keys are least like the cached ones, others those of the layer before."""
    x, kept, indices = start, [], torch.arange(0)
    for layer, old, metric in zip(layers, cache.layers, rankings, strict=True):
        attention = layer.self_attn
        h = layer.layer_norm1(x)
        key = attention.k_proj(h)  # of all tokens: for ranking, and attention sees fresh keys
        indices = least_similar(metric(key, old.key), count) if metric else indices
        value = _mix(old.value, attention.v_proj(h[indices]), indices)
        query = attention.q_proj(h[indices])
        attended = attend(attention, query, key, value)
        x = x + (mixed := _mix(old.attention, attended, indices))
        added = _mix(old.mlp, layer.mlp(layer.layer_norm2(x[indices])), indices)
        x = x + added
        kept.append(LayerCache(_mix(old.key, key[indices], indices), value, mixed, added))
    return Pass(x, _told(attention, query, key, kept), FrameCache(tuple(kept), x - start))


def _per_layer(layers: Sequence[Any], start: Tensor, cache: FrameCache, indices: Tensor, metric: Similarity) -> Pass:
    return _ranked(layers, start, cache, len(indices), [metric] * len(layers))


def _shared(layers: Sequence[Any], start: Tensor, cache: FrameCache, indices: Tensor, metric: Similarity) -> Pass:
    return _ranked(layers, start, cache, len(indices), [metric] + [None] * (len(layers) - 1))


def least_similar(similarity: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` rows of lowest similarity [T]; of equal ones the lower index."""
    return torch.argsort(similarity, stable=True)[:count]


def _mix(cached: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    return cached.index_copy(0, indices, rows)


SELECTIVE_PASSES: Mapping[Selection, SelectivePass] = {"gate": _gate, "per_layer": _per_layer, "shared": _shared}
