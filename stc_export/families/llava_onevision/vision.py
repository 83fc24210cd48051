"""The vision graphs: ``cacher_gate`` and the three forms of ``vit``.

A selective pass recomputes R of T tokens. R is a dynamic dimension and R = T is the full pass: one graph serves both.

Selections (STC paper, arXiv 2512.00891, section 3.3; released code lern-to-write/STC):

* ``gate``: the host names the tokens once, from the patch embeddings. Keys are cached like values, so no layer touches
  any other token: per layer only K and V are state, and one tensor [T, C] for the whole encoder, the delta X_L - X_0. A
  token that is not recomputed ends as its current embedding plus the delta of its reference, which is the same as
  adding every layer's cached attention and MLP output (the published rule) without computing in between. Two numbers
  for each recomputed token say how the delta goes on from there (ours): ``gain``, how much of it enters the cache, and
  ``drift``, how much of its own movement all others follow.
* ``per_layer``: the published method. Each layer projects the keys of all tokens, ranks them by cosine (or another
  metric) with the reference's keys and recomputes the R least similar.
* ``shared``: the same with the first layer's ranking for all layers.

State is data: what a graph calls ``*_in`` and ``*_out`` belongs to one stream session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stc_export.families.llava_onevision.blocks import ACTIVATIONS, LayerNorm, Linear, gelu, put_rows, take_rows
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.metrics import EPS, Similarity, cosine

#: (q, keys, values), [heads, tokens, head_dim] each -> mixed values of q.
Attention = Callable[[Any, Any, Any], Any]


class PatchGate(nn.Module):
    """``cacher_gate``: frame and reference -> patch embeddings, similarity, statistics."""

    def __init__(self, config: LlavaConfig, dtype: Any, metric: Similarity) -> None:
        """Create the graph's module without initialising it; ``metric`` makes the similarity, not the statistics."""
        super().__init__()
        self.metric = metric
        vision = config.dims.vision
        self.grid, self.patch = vision.grid, vision.patch_size
        values = vision.patch_size**2 * 3
        self.projection = Linear(values, vision.width, bias=True, dtype=dtype)
        # As long as a patch, although there are three channels: a CPU computes rows of three numbers one by one.
        self.scale = nn.Parameter(torch.empty(values, dtype=torch.float32), requires_grad=False)
        self.offset = nn.Parameter(torch.empty(values, dtype=torch.float32), requires_grad=False)

    def forward(self, frame: Any, reference: Any) -> tuple[Any, Any, Any]:
        """Embed a frame and compare it with the reference.

        Args:
            frame: [H, W, 3] uint8, H = W = image size.
            reference: [T, C] patch embeddings of the reference frame, or zeros when there is none.

        Returns:
            Patch embeddings [T, C] without positions; similarity to the reference per token, [T] float32 (a cosine is 0
            without a reference); statistics [3] float32: mean and least cosine, whatever the metric, and the relative
            change |x - r| / |r| of the frame.
        """
        side = self.grid * self.patch
        # Cast first: TensorRT takes uint8 as an input of the network and does nothing else with it.
        pixels = frame.float()[:side, :side]
        patches = pixels.reshape(self.grid, self.patch, self.grid, self.patch, 3).permute(0, 2, 1, 3, 4)
        flat = patches.reshape(self.grid * self.grid, self.patch * self.patch * 3) * self.scale + self.offset
        embeddings = self.projection(flat.to(reference.dtype))
        now, before = embeddings.float(), reference.float()
        similarity = self.metric(now, before)
        # Where the metric is the cosine, the exporter finds that both are the same and computes them once.
        cosines = cosine(now, before)
        change = length(now - before) / (length(before) + EPS)
        statistics = torch.stack([cosines.mean(), cosines.amin(0), change])
        return embeddings, similarity, statistics


def length(a: Any) -> Any:
    """Euclidean norm of a whole tensor."""
    return (a * a).sum().sqrt()


class VisionLayer(nn.Module):
    """One SigLIP encoder layer; ``qv`` and ``k`` are rows of one stored matrix, ``qvk`` is the whole of it."""

    def __init__(self, config: LlavaConfig, dtype: Any, attention: Attention, *, keys_apart: bool) -> None:
        """Create the layer uninitialised; ``keys_apart`` when keys are projected for more tokens than q and v."""
        super().__init__()
        vision = config.dims.vision
        self.heads, self.head_dim, self.width = vision.heads, vision.head_dim, vision.width
        self.attention = attention
        self.norm1 = LayerNorm(vision.width, config.vision_eps)
        self.norm2 = LayerNorm(vision.width, config.vision_eps)
        if keys_apart:
            self.qv = Linear(vision.width, 2 * vision.width, bias=True, dtype=dtype)
            self.k = Linear(vision.width, vision.width, bias=True, dtype=dtype)
        else:
            self.qvk = Linear(vision.width, 3 * vision.width, bias=True, dtype=dtype)
        self.out = Linear(vision.width, vision.width, bias=True, dtype=dtype)
        self.fc1 = Linear(vision.width, vision.mlp_width, bias=True, dtype=dtype)
        self.fc2 = Linear(vision.mlp_width, vision.width, bias=True, dtype=dtype)
        self.approximate = ACTIVATIONS[config.vision_act]

    def split_heads(self, x: Any) -> Any:
        """[R, heads * head_dim] -> [heads, R, head_dim], where ``heads`` may be those of q, v and k together."""
        return x.unflatten(1, (-1, self.head_dim)).permute(1, 0, 2)

    def attend(self, q: Any, keys: Any, values: Any) -> Any:
        """Attention of R queries over T cached keys, projected.

        Args:
            q: [heads, R, head_dim].
            keys: [heads, T, head_dim].
            values: [heads, T, head_dim].

        Returns:
            [R, C].
        """
        return self.out(self.attention(q, keys, values).permute(1, 0, 2).reshape(-1, self.width))

    def mlp(self, x: Any) -> Any:
        """[R, C] -> [R, C], with the norm before it."""
        return self.fc2(gelu(self.fc1(self.norm2(x)), self.approximate))


def head_rows(indices: Any, heads: int) -> tuple[Any, Any]:
    """Places of token indices [R] in a cache [heads, T, head_dim]: the head and the token of each, both [heads, R]."""
    first = torch.arange(heads, device=indices.device, dtype=indices.dtype)
    shape = (heads, indices.shape[0])
    return first[:, None].expand(shape), indices[None, :].expand(shape)


def finite_or(x: Any, other: Any) -> Any:
    """Return x, and ``other`` where it is infinite or no number: what overflowed once must not stay in a cache."""
    return torch.where(x.float().abs() <= torch.finfo(torch.float32).max, x, other)


@dataclass(frozen=True)
class EncoderParts:
    """What differs between the forms of a ``vit`` graph.

    Attributes:
        attention: (q, keys, values) -> mixed values of q.
        scores: Further outputs of a pass, each (q, keys) of the last layer -> float32 [T].
    """

    attention: Attention
    scores: tuple[Callable[[Any, Any], Any], ...] = ()


class VisionEncoder(nn.Module):
    """Position embedding and layers, common to all selections.

    Args:
        config: Sizes.
        dtype: Type of activations and large weights.
        parts: What differs between the forms of a graph.
        keys_apart: Whether keys are projected for more tokens than q and v.
    """

    def __init__(self, config: LlavaConfig, dtype: Any, parts: EncoderParts, *, keys_apart: bool) -> None:
        """Create the encoder without initialising it."""
        super().__init__()
        vision = config.dims.vision
        self.tokens, self.heads, self.width = vision.tokens, vision.heads, vision.width
        self.position = nn.Parameter(torch.empty(vision.tokens, vision.width, dtype=dtype), requires_grad=False)
        self.scores = parts.scores
        layers = [VisionLayer(config, dtype, parts.attention, keys_apart=keys_apart) for _ in range(vision.layers)]
        self.layers = nn.ModuleList(layers)


class GateEncoder(VisionEncoder):
    """``vit`` with selection ``gate``."""

    def __init__(self, config: LlavaConfig, dtype: Any, parts: EncoderParts) -> None:
        """Create the graph's module without initialising it."""
        super().__init__(config, dtype, parts, keys_apart=False)

    def forward(
        self,
        patch_embeddings: Any,
        indices: Any,
        shares: tuple[Any, Any],
        delta: Any,
        keys: list[Any],
        values: list[Any],
    ) -> Any:
        """Recompute R tokens.

        Args:
            patch_embeddings: [T, C] of the current frame.
            indices: [R] int64, unique; all T tokens for a full pass.
            shares: ``gain`` [R] float32, the part of a token's new delta in what is cached of it, where the rest is the
                old one; and ``drift`` [R] float32, weights of the sum by which the deltas of all other tokens move.
            delta: [T, C] X_L - X_0 of each token when it was last computed.
            keys: Per layer [heads, T, head_dim].
            values: Per layer [heads, T, head_dim].

        Returns:
            Features [T, C], scores [T] if there are any, new delta, new keys of all layers, new values of all layers.
        """
        start = patch_embeddings + self.position
        rows = head_rows(indices, self.heads)
        x = take_rows(start, indices)
        queries, keys_out, values_out = [], [], []
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            q, v, k = layer.split_heads(layer.qvk(layer.norm1(x))).split(self.heads)
            queries.append(q)
            keys_out.append(put_rows(key, rows, k))
            values_out.append(put_rows(value, rows, v))
            x = x + layer.attend(q, keys_out[-1], values_out[-1])
            x = x + layer.mlp(x)
        old, new = take_rows(delta, indices), x - take_rows(start, indices)
        gain, drift = shares
        moved = (drift[:, None] * finite_or(new - old, 0.0).float()).sum(0, keepdim=True)
        # The only operator that reads the whole delta: a runtime may write the new one into the same memory.
        followed = delta + moved.to(delta.dtype)
        features = put_rows(start + followed, (indices,), x)
        share = gain[:, None].to(delta.dtype)
        kept = put_rows(followed, (indices,), share * new + (1 - share) * finite_or(old, new))
        scores = (score(queries[-1], keys_out[-1]) for score in self.scores)
        return features, *scores, kept, *keys_out, *values_out


class RankingEncoder(VisionEncoder):
    """``vit`` with selections ``per_layer`` and ``shared``: the graph ranks the tokens itself."""

    def __init__(
        self, config: LlavaConfig, dtype: Any, parts: EncoderParts, metric: Similarity, *, rank_each_layer: bool
    ) -> None:
        """Create the graph's module without initialising it."""
        super().__init__(config, dtype, parts, keys_apart=True)
        self.metric = metric
        self.ranks = [rank_each_layer or index == 0 for index in range(config.dims.vision.layers)]

    def forward(self, patch_embeddings: Any, carrier: Any, state: list[list[Any]]) -> Any:
        """Recompute R tokens per layer (STC paper, algorithm 1; fresh keys, mixed values as in the released code).

        Args:
            patch_embeddings: [T, C] of the current frame.
            carrier: [R] int64; only its length counts.
            state: Keys and values, per layer [heads, T, head_dim], attention and MLP outputs, per layer [T, C].

        Returns:
            Features [T, C], scores [T] if there are any, then of all layers new keys, values, attention outputs and MLP
            outputs.
        """
        x = patch_embeddings + self.position
        indices = carrier
        new: list[list[Any]] = [[], [], [], []]
        seen: list[tuple[Any, Any]] = []
        for layer, ranks, key, value, attention, mlp in zip(self.layers, self.ranks, *state, strict=True):
            normed = layer.norm1(x)
            k = layer.k(normed)
            if ranks:
                flat_reference = key.permute(1, 0, 2).reshape(self.tokens, self.width)
                similarity = self.metric(k.float(), flat_reference.float())
                indices = torch.topk(similarity, carrier.shape[0], largest=False).indices
            rows = head_rows(indices, self.heads)
            q, v = layer.split_heads(layer.qv(take_rows(normed, indices))).split(self.heads)
            # Attention sees fresh keys; the state keeps those of the moment each token was last recomputed, so that
            # slow drift adds up until it is noticed.
            new[0].append(put_rows(key, rows, layer.split_heads(take_rows(k, indices))))
            new[1].append(put_rows(value, rows, v))
            seen.append((q, layer.split_heads(k)))
            new[2].append(put_rows(attention, (indices,), layer.attend(*seen[-1], new[1][-1])))
            x = x + new[2][-1]
            new[3].append(put_rows(mlp, (indices,), layer.mlp(take_rows(x, indices))))
            x = x + new[3][-1]
        scores = (score(*seen[-1]) for score in self.scores)
        return x, *scores, *new[0], *new[1], *new[2], *new[3]
