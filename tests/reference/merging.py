"""ToMe (arXiv 2210.09461) in a SigLIP encoder, the obvious way: tokens are lists of the places that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.selective_vit import Encoder, linear, mlp, norm


def merged(encoder: Encoder, x0: Tensor, merges: list[int]) -> Tensor:
    """Features [T, C] of all places; layer i merges ``merges[i]`` tokens away between its attention and its MLP."""
    x = list(x0)
    members = [[place] for place in range(len(x0))]
    for w, merge in zip(encoder.layers, merges, strict=True):
        h = norm(w, "layer_norm1", torch.stack(x), encoder.eps)
        q, k, v = (linear(w, f"self_attn.{p}_proj", h) for p in "qkv")
        sizes = torch.tensor([float(len(one)) for one in members])
        heads = []
        for qh, kh, vh in zip(*(part.chunk(encoder.heads, -1) for part in (q, k, v)), strict=True):
            scores = qh @ kh.T / qh.shape[-1] ** 0.5
            weights = scores.exp() * sizes  # a token counts as often as it has members
            heads.append(weights / weights.sum(dim=1, keepdim=True) @ vh)
        x = list(torch.stack(x) + linear(w, "self_attn.out_proj", torch.cat(heads, dim=-1)))
        key = torch.stack(k.chunk(encoder.heads, -1)).mean(dim=0)
        x, members = _merge(x, members, key, merge)
        now = torch.stack(x)
        x = list(now + mlp(w, norm(w, "layer_norm2", now, encoder.eps)))
    features = torch.zeros_like(x0)
    for one, places in zip(x, members, strict=True):
        features[places] = one
    return features


def _merge(x: list[Tensor], members: list[list[int]], key: Tensor, merge: int) -> tuple[list[Tensor], list[list[int]]]:
    closest = []
    for a in range(0, len(x), 2):
        cosines = {b: float(torch.cosine_similarity(key[a], key[b], dim=0)) for b in range(1, len(x), 2)}
        b = max(cosines, key=lambda place: cosines[place])
        closest.append((cosines[b], a, b))
    groups = {place: [place] for place in range(len(x))}
    for _, a, b in sorted(closest, key=lambda pair: -pair[0])[:merge]:
        groups[b].append(a)
        del groups[a]
    new_x, new_members = [], []
    for group in groups.values():
        weights = [float(len(members[place])) for place in group]
        total = sum((weight * x[place] for weight, place in zip(weights, group, strict=True)), torch.zeros(()))
        new_x.append(total / sum(weights))
        new_members.append([p for place in group for p in members[place]])
    return new_x, new_members
