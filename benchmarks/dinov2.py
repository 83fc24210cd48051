"""DINOv2 ViT-S/14 with registers, and its selective passes: what the graphs of a bundle compute, on a real ViT.

The passes repeat `stc_export/families/llava_onevision/vision.py` in plain PyTorch. DINOv2 has more in front of the
patches than SigLIP: the class token and four registers. They see the whole picture, so every pass recomputes them; they
are 5 of 734 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from stc_export.spec.dims import VisionDims
from stc_export.spec.policy import Selection
from stc_runtime.gate import Decision

#: Sizes of the published model at 378 x 378: T = 27 x 27 = 729, as SigLIP in LLaVA-OneVision has.
VISION = VisionDims(image_size=378, patch_size=14, width=384, mlp_width=1536, heads=6, layers=12)
REGISTERS = 4
#: Class token and registers.
PREFIX = 1 + REGISTERS
#: Side of the grid that positions were trained on: 518 pixels.
TRAINED_GRID = 37
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EPS = 1e-12


@dataclass(frozen=True, eq=False)
class Cache:
    """State of a stream: one tensor per layer each, over all P + T tokens; unused ones are empty.

    Attributes:
        keys: [heads, P + T, head_dim].
        values: [heads, P + T, head_dim].
        attention: [P + T, C]; with selections ``per_layer`` and ``shared``.
        mlp: [P + T, C]; the same.
        delta: [P + T, C], X_L - X_0, once; with selection ``gate``.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    attention: tuple[torch.Tensor, ...] = ()
    mlp: tuple[torch.Tensor, ...] = ()
    delta: tuple[torch.Tensor, ...] = ()


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)


class _Layer(nn.Module):
    def __init__(self, vision: VisionDims) -> None:
        super().__init__()
        width = vision.width
        self.heads = vision.heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width), _Mlp(width, vision.mlp_width)
        self.ls1, self.ls2 = _Scale(width), _Scale(width)

    def project(self, normed: Any, part: int) -> Any:
        """Rows [R, C] -> queries (part 0), keys (1) or values (2) [heads, R, head_dim]."""
        width = normed.shape[1]
        rows = slice(part * width, (part + 1) * width)
        out = F.linear(normed, self.attn.qkv.weight[rows], self.attn.qkv.bias[rows])
        return out.unflatten(1, (self.heads, -1)).transpose(0, 1)

    def attend(self, queries: Any, keys: Any, values: Any) -> Any:
        """R queries over all keys -> [R, C]."""
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.attn.proj(mixed.transpose(0, 1).flatten(1)) * self.ls1.gamma

    def feed_forward(self, x: Any) -> Any:
        """[R, C] -> [R, C], with the norm before it."""
        return self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x)))) * self.ls2.gamma


class _PatchEmbed(nn.Module):
    def __init__(self, vision: VisionDims) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, vision.width, vision.patch_size, vision.patch_size)


class DinoV2(nn.Module):
    """The encoder with parameters named as in the published checkpoint."""

    def __init__(self, vision: VisionDims = VISION, trained_grid: int = TRAINED_GRID) -> None:
        super().__init__()
        self.vision, self.trained_grid = vision, trained_grid
        self.patch_embed = _PatchEmbed(vision)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, vision.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, vision.width))
        self.mask_token = nn.Parameter(torch.zeros(1, vision.width))  # of the training; in the checkpoint
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + trained_grid**2, vision.width))
        self.blocks = nn.ModuleList([_Layer(vision) for _ in range(vision.layers)])
        self.norm = nn.LayerNorm(vision.width, eps=1e-6)

    def embed(self, frame: NDArray[np.uint8]) -> Any:
        """Frame [size, size, 3] -> patch embeddings [T, C] without positions."""
        pixels = torch.from_numpy(frame).float() / 255.0
        pixels = (pixels - torch.tensor(_MEAN)) / torch.tensor(_STD)
        return self.patch_embed.proj(pixels.permute(2, 0, 1)[None])[0].flatten(1).T

    def start(self, embeddings: Any) -> Any:
        """Patch embeddings [T, C] -> what enters the first layer [P + T, C]."""
        patches = embeddings + self.positions()
        return torch.cat([self.cls_token[0] + self.pos_embed[0, :1], self.register_tokens[0], patches])

    def positions(self) -> Any:
        """Positions [T, C] of the grid, interpolated as DINOv2 with registers does: bicubic with antialiasing."""
        grid = self.vision.grid
        trained = self.pos_embed[:, 1:].unflatten(1, (self.trained_grid, -1)).permute(0, 3, 1, 2)
        return F.interpolate(trained, (grid, grid), mode="bicubic", antialias=True)[0].flatten(1).T

    def features(self, x: Any) -> Any:
        """Last layer's output [P + T, C] -> layer-normed patch tokens [T, C]."""
        return self.norm(x[PREFIX:])

    def dense(self, embeddings: Any) -> Any:
        """Patch embeddings [T, C] -> features [T, C], without any cache."""
        x = self.start(embeddings)
        for layer in self.blocks:
            normed = layer.norm1(x)
            x = x + layer.attend(*(layer.project(normed, part) for part in range(3)))
            x = x + layer.feed_forward(x)
        return self.features(x)


def load(path: Path) -> DinoV2:
    """Return the published model with the weights of a state dict."""
    model = DinoV2()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


#: (model, patch embeddings [T, C], indices [R] int64, cache; ``None`` at the start, when all T are given) -> features
#: [T, C] and the new cache.
Pass = Callable[[DinoV2, Any, Any, "Cache | None"], tuple[Any, Cache]]


def gate_pass(model: DinoV2, embeddings: Any, indices: Any, cache: Cache | None) -> tuple[Any, Cache]:
    """Recompute the named tokens in all layers; the others end as their embedding plus their cached delta."""
    start, rows = model.start(embeddings), _with_prefix(indices)
    old = cache or _empty(model, start)
    x, keys, values = start[rows], [], []
    for layer, key, value in zip(model.blocks, old.keys, old.values, strict=True):
        normed = layer.norm1(x)
        keys.append(_put(key, rows, layer.project(normed, 1), 1))
        values.append(_put(value, rows, layer.project(normed, 2), 1))
        x = x + layer.attend(layer.project(normed, 0), keys[-1], values[-1])
        x = x + layer.feed_forward(x)
    out = _put(start + old.delta[0], rows, x, 0)
    return model.features(out), Cache(tuple(keys), tuple(values), delta=(out - start,))


def carried(
    model: DinoV2, embeddings: Any, decision: Decision, before: Cache, done: tuple[Any, Cache]
) -> tuple[Any, Cache]:
    """Apply gain and drift of a decision to a pass of selection ``gate``, full or selective.

    Class token and registers are recomputed in every pass: theirs is what is cached of them, and they do not drift.
    """
    start, new = model.start(embeddings), done[1].delta[0]
    indices = torch.from_numpy(decision.indices) + PREFIX
    gain, drift = (torch.from_numpy(one)[:, None] for one in (decision.gain, decision.drift))
    old = before.delta[0][indices]
    followed = torch.cat([new[:PREFIX], before.delta[0][PREFIX:] + (drift * (new[indices] - old)).sum(0)])
    features = model.features(start + _put(followed, indices, new[indices], 0))
    kept = _put(followed, indices, gain * new[indices] + (1 - gain) * old, 0)
    return features, replace(done[1], delta=(kept,))


def ranking_pass(
    model: DinoV2, embeddings: Any, indices: Any, cache: Cache | None, *, rank_each_layer: bool
) -> tuple[Any, Cache]:
    """Rank the tokens by the cosine of their keys with the cached ones and recompute the R least similar.

    Only how many indices there are counts (STC paper, algorithm 1; fresh keys, mixed values as in the released code).
    """
    x = model.start(embeddings)
    old = cache or _empty(model, x)
    new: tuple[list[Any], ...] = ([], [], [], [])
    for number, (layer, key, value, attention, mlp) in enumerate(
        zip(model.blocks, old.keys, old.values, old.attention, old.mlp, strict=True)
    ):
        normed = layer.norm1(x)
        k = layer.project(normed, 1)
        if rank_each_layer or number == 0:
            rows = _with_prefix(_least_similar(k, key, len(indices)))
        new[0].append(_put(key, rows, k[:, rows], 1))
        new[1].append(_put(value, rows, layer.project(normed[rows], 2), 1))
        attended = layer.attend(layer.project(normed[rows], 0), k, new[1][-1])
        new[2].append(_put(attention, rows, attended, 0))
        x = x + new[2][-1]
        new[3].append(_put(mlp, rows, layer.feed_forward(x[rows]), 0))
        x = x + new[3][-1]
    return model.features(x), Cache(*(tuple(part) for part in new))


def _per_layer(model: DinoV2, embeddings: Any, indices: Any, cache: Cache | None) -> tuple[Any, Cache]:
    return ranking_pass(model, embeddings, indices, cache, rank_each_layer=True)


def _shared(model: DinoV2, embeddings: Any, indices: Any, cache: Cache | None) -> tuple[Any, Cache]:
    return ranking_pass(model, embeddings, indices, cache, rank_each_layer=False)


PASSES: Mapping[Selection, Pass] = {"gate": gate_pass, "per_layer": _per_layer, "shared": _shared}


def _least_similar(keys: Any, cached: Any, count: int) -> Any:
    now, before = (side[:, PREFIX:].transpose(0, 1).flatten(1) for side in (keys, cached))
    return torch.topk(cosine(now, before), count, largest=False).indices


def cosine(a: Any, b: Any) -> Any:
    """Cosine of the rows of two [N, W] tensors, [N]; 0 where one of them is zero."""
    return (a * b).sum(-1) / (((a * a).sum(-1) * (b * b).sum(-1)).sqrt() + _EPS)


def _with_prefix(indices: Any) -> Any:
    return torch.cat([torch.arange(PREFIX), indices + PREFIX])


def _put(old: Any, rows: Any, new: Any, axis: int) -> Any:
    return old.index_copy(axis, rows, new)


def _empty(model: DinoV2, start: Any) -> Cache:
    heads, layers = model.vision.heads, model.vision.layers
    wide = torch.zeros_like(start)
    split = wide.unflatten(1, (heads, -1)).transpose(0, 1)
    return Cache((split,) * layers, (split,) * layers, (wide,) * layers, (wide,) * layers, (wide,))
