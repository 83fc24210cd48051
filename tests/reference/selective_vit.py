"""A SigLIP encoder, full and selective, in plain torch from the formulas (arXiv 2512.00891, section 3.3).

Weights are one dict per layer, named as in transformers' encoder layer (``self_attn.q_proj.weight``, ...). ``x0``
[T, C] is patch embedding plus position, the result is the output of the last layer, before any final norm. Indices [R]
may be in any order. Every function returns the mixed state and changes nothing: to keep the old one is cache update
``reference``, to go on with the new one is ``rolling``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from tests.reference.metrics import similarity

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Encoder:
    """Layers and the two settings that their weights do not show."""

    layers: Sequence[Weights]
    heads: int
    eps: float


@dataclass(frozen=True)
class LayerState:
    """What the published cacher keeps of a layer, all [T, C]: K, V, attention output after out_proj, MLP output.

    A row of each belongs to the frame in which its token was last recomputed, also in ``key``: a token is compared with
    the key that goes with its cached V, attention and MLP output.
    """

    key: Tensor
    value: Tensor
    attention: Tensor
    mlp: Tensor


@dataclass(frozen=True)
class GateState:
    """What selection ``gate`` keeps: K and V of each layer, and X_L - X_0 once; all [T, C]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    delta: Tensor


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attention(w: Weights, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for each head, then out_proj; q [R, C], k and v [T, C] -> [R, C]."""
    outputs = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        outputs.append(torch.softmax(qh @ kh.T / qh.shape[-1] ** 0.5, dim=-1) @ vh)
    return linear(w, "self_attn.out_proj", torch.cat(outputs, dim=-1))


def mlp(w: Weights, x: Tensor) -> Tensor:
    return linear(w, "mlp.fc2", gelu(linear(w, "mlp.fc1", x), approximate="tanh"))


def mix(cached: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """The cached rows with those at ``indices`` replaced."""
    mixed = cached.clone()
    mixed[indices] = rows
    return mixed


def full(encoder: Encoder, x0: Tensor) -> tuple[Tensor, tuple[LayerState, ...]]:
    """All tokens in all layers."""
    x, states = x0, []
    for w in encoder.layers:
        h = norm(w, "layer_norm1", x, encoder.eps)
        q, k, v = (linear(w, f"self_attn.{p}_proj", h) for p in "qkv")
        a = attention(w, q, k, v, encoder.heads)
        x = x + a
        m = mlp(w, norm(w, "layer_norm2", x, encoder.eps))
        x = x + m
        states.append(LayerState(k, v, a, m))
    return x, tuple(states)


def least_similar(keys: Tensor, cached: Tensor, count: int, metric: str) -> Tensor:
    """Indices of the ``count`` tokens of lowest similarity over all C channels; of equal ones the lower index."""
    scores = torch.from_numpy(similarity(metric, keys.detach().numpy(), cached.detach().numpy()))
    return torch.argsort(scores, stable=True)[:count]


def per_layer(
    encoder: Encoder, x0: Tensor, cached: Sequence[LayerState], count: int, metric: str = "cosine"
) -> tuple[Tensor, tuple[LayerState, ...], tuple[Tensor, ...]]:
    """The published selective pass: each layer ranks its own keys. Also returns the indices of each layer."""
    return _ranked(encoder, x0, cached, count, metric, rank_each_layer=True)


def shared(
    encoder: Encoder, x0: Tensor, cached: Sequence[LayerState], count: int, metric: str = "cosine"
) -> tuple[Tensor, tuple[LayerState, ...], tuple[Tensor, ...]]:
    """The same with the indices of the first layer in all layers."""
    return _ranked(encoder, x0, cached, count, metric, rank_each_layer=False)


def _ranked(
    encoder: Encoder, x0: Tensor, cached: Sequence[LayerState], count: int, metric: str, *, rank_each_layer: bool
) -> tuple[Tensor, tuple[LayerState, ...], tuple[Tensor, ...]]:
    x, states, chosen = x0, [], []
    for w, old in zip(encoder.layers, cached, strict=True):
        h = norm(w, "layer_norm1", x, encoder.eps)
        k = linear(w, "self_attn.k_proj", h)  # of all tokens, for ranking and for attention
        i = least_similar(k, old.key, count, metric) if rank_each_layer or not chosen else chosen[0]
        v = mix(old.value, linear(w, "self_attn.v_proj", h[i]), i)
        a = mix(old.attention, attention(w, linear(w, "self_attn.q_proj", h[i]), k, v, encoder.heads), i)
        x = x + a
        m = mix(old.mlp, mlp(w, norm(w, "layer_norm2", x, encoder.eps)[i]), i)
        x = x + m
        states.append(LayerState(mix(old.key, k[i], i), v, a, m))
        chosen.append(i)
    return x, tuple(states), tuple(chosen)


@dataclass(frozen=True)
class Shares:
    """What becomes of a delta: each recomputed token's gain and drift, both [R]."""

    gain: Tensor
    drift: Tensor


def gate(
    encoder: Encoder, x0: Tensor, cached: GateState, indices: Tensor, shares: Shares | None = None
) -> tuple[Tensor, GateState]:
    """Given indices; keys are cached as well, so that no layer touches another token.

    A token that is not selected ends as X_0 of this frame plus the delta of the frame in which it was last computed;
    with shares, that delta moves first by the sum of drift times what the delta of each selected token moved, and what
    is cached of a selected token is its new delta times gain plus its old one times (1 - gain).
    """
    x, keys, values = x0[indices], [], []
    for w, key, value in zip(encoder.layers, cached.keys, cached.values, strict=True):
        h = norm(w, "layer_norm1", x, encoder.eps)
        q, k, v = (linear(w, f"self_attn.{p}_proj", h) for p in "qkv")
        keys.append(mix(key, k, indices))
        values.append(mix(value, v, indices))
        x = x + attention(w, q, keys[-1], values[-1], encoder.heads)
        x = x + mlp(w, norm(w, "layer_norm2", x, encoder.eps))
    if shares is None:
        shares = Shares(torch.ones(len(indices), dtype=x.dtype), torch.zeros(len(indices), dtype=x.dtype))
    delta, moved = cached.delta.clone(), torch.zeros_like(x0[0])
    for row, index in enumerate(indices.tolist()):
        moved = moved + shares.drift[row] * (x[row] - x0[index] - cached.delta[index])
    delta = delta + moved
    features = x0 + delta
    for row, index in enumerate(indices.tolist()):
        features[index] = x[row]
        delta[index] = shares.gain[row] * (x[row] - x0[index]) + (1 - shares.gain[row]) * cached.delta[index]
    return features, GateState(tuple(keys), tuple(values), delta)


def gate_state(states: Sequence[LayerState]) -> GateState:
    """State of selection ``gate`` from that of a full pass: X_L - X_0 is the sum of all attention and MLP outputs."""
    delta = torch.stack([s.attention + s.mlp for s in states]).sum(dim=0)
    return GateState(tuple(s.key for s in states), tuple(s.value for s in states), delta)


def received(encoder: Encoder, q: Tensor, k: Tensor) -> Tensor:
    """[T]: the mean over heads and rows of softmax(q k^T / sqrt(d)); q [R, C], k [T, C]."""
    pairs = zip(q.chunk(encoder.heads, -1), k.chunk(encoder.heads, -1), strict=True)
    return torch.stack([torch.softmax(qh @ kh.T / qh.shape[-1] ** 0.5, dim=-1).mean(0) for qh, kh in pairs]).mean(0)


def last_keys(encoder: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys of the last layer for what goes into it."""
    h = norm(encoder.layers[-1], "layer_norm1", x, encoder.eps)
    q, k = (linear(encoder.layers[-1], f"self_attn.{p}_proj", h) for p in "qk")
    return q, k


def gate_attention(encoder: Encoder, x0: Tensor, cached: GateState, indices: Tensor) -> Tensor:
    """What each token receives in the last layer of a pass with given indices: from those R tokens only."""
    before = Encoder(encoder.layers[:-1], encoder.heads, encoder.eps)
    # Rows that are not selected are not used, so the delta, which is that of all layers, does not matter.
    x, _ = gate(before, x0, GateState(cached.keys[:-1], cached.values[:-1], cached.delta), indices)
    q, k = last_keys(encoder, x[indices])
    return received(encoder, q, mix(cached.keys[-1], k, indices))


def ranked_attention(
    encoder: Encoder, x0: Tensor, cached: Sequence[LayerState], count: int, *, rank_each_layer: bool
) -> Tensor:
    """The same for a pass that ranks: from the R tokens that the last layer recomputes, over the keys of this frame."""
    before = Encoder(encoder.layers[:-1], encoder.heads, encoder.eps)
    x, _, chosen = _ranked(before, x0, cached[:-1], count, "cosine", rank_each_layer=rank_each_layer)
    q, k = last_keys(encoder, x)
    indices = least_similar(k, cached[-1].key, count, "cosine") if rank_each_layer else chosen[0]
    return received(encoder, q[indices], k)
