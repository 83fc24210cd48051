"""Dropping visual tokens inside the LLM, and in a whole clip, the obvious way: loops over tokens, lists of records.

``run`` computes a Qwen2 from its weights, layer by layer, and asks a chooser between layers. Nothing of the package is
used. Counts come from the descriptions of the methods: FastV (arXiv 2403.06764), PyramidDrop (2410.17247), SparseVLM
(2410.04417), VidCom2 (2505.14454).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Token:
    """A token on its way through the layers."""

    x: Array
    position: int
    visual: bool


#: (LLM, number of the layer that follows, tokens, what they were before the last layer, count) -> tokens that go on.
Chooser = Callable[[Any, int, list[Token], list[Array], int], list[Token]]


class PlainQwen2:
    """The weights of a decoder in float64."""

    def __init__(self, model: Any) -> None:
        self.text = model.model.language_model
        self.config = self.text.config
        self.head = array(model.lm_head.weight)
        self.theta = self.config.rope_parameters["rope_theta"]

    def logits(self, tokens: list[Token], counts: list[int], choose: Chooser) -> Array:
        """Logits behind the last token; layer i works on ``counts[i]`` visual tokens."""
        before = [token.x for token in tokens]
        for number, layer in enumerate(self.text.layers):
            if number and counts[number] < sum(token.visual for token in tokens):
                tokens = choose(self, number, tokens, before, counts[number])
            before = [token.x for token in tokens]
            attended = self.attention(number, before, [token.position for token in tokens])[1]
            middle = [x + a for x, a in zip(before, attended, strict=True)]
            tokens = [
                Token(x + mlp(layer.mlp, self.norm(layer.post_attention_layernorm, x)), token.position, token.visual)
                for token, x in zip(tokens, middle, strict=True)
            ]
        return self.head @ self.norm(self.text.norm, tokens[-1].x)

    def norm(self, module: Any, x: Array) -> Array:
        return x / np.sqrt((x**2).mean() + self.config.rms_norm_eps) * array(module.weight)

    def attention(self, number: int, xs: list[Array], positions: list[int]) -> tuple[Array, list[Array]]:
        """Weights [heads, S, S] of a layer, and what each token gets of it."""
        layer, d = self.text.layers[number], self.text.layers[number].self_attn.head_dim
        normed = [self.norm(layer.input_layernorm, x) for x in xs]
        q, k, v = (self.heads(layer.self_attn, name, normed, positions) for name in "qkv")
        weights, mixed = np.zeros((len(q[0]), len(xs), len(xs))), []
        for row in range(len(xs)):
            parts = []
            for head in range(len(q[0])):
                group = head * len(k[0]) // len(q[0])
                scores = np.array([q[row][head] @ k[other][group] / math.sqrt(d) for other in range(row + 1)])
                share = np.exp(scores - scores.max())
                weights[head, row, : row + 1] = share / share.sum()
                parts.append(sum(weights[head, row, other] * v[other][group] for other in range(row + 1)))
            mixed.append(array(layer.self_attn.o_proj.weight) @ np.concatenate(parts))
        return weights, mixed

    def heads(self, attention: Any, name: str, xs: list[Array], positions: list[int]) -> list[Array]:
        module = getattr(attention, f"{name}_proj")
        rows = [(array(module.weight) @ x + array(module.bias)).reshape(-1, attention.head_dim) for x in xs]
        return rows if name == "v" else [self.rotate(x, p) for x, p in zip(rows, positions, strict=True)]

    def rotate(self, x: Array, position: int) -> Array:
        half = x.shape[-1] // 2
        turn = np.exp(1j * position * self.theta ** (-2.0 * np.arange(half) / x.shape[-1]))
        turned = (x[:, :half] + 1j * x[:, half:]) * turn
        return np.concatenate([turned.real, turned.imag], axis=-1)


def array(tensor: Any) -> Array:
    return tensor.detach().double().numpy()


def mlp(module: Any, x: Array) -> Array:
    gate, up = array(module.gate_proj.weight) @ x, array(module.up_proj.weight) @ x
    return array(module.down_proj.weight) @ (gate / (1 + np.exp(-gate)) * up)


def best(tokens: list[Token], scores: list[float], count: int) -> list[Token]:
    """All text tokens, and the ``count`` visual ones of the highest scores, in order."""
    places = [i for i, token in enumerate(tokens) if token.visual]
    chosen = set(sorted(places, key=lambda i: -scores[i])[:count])
    return [token for i, token in enumerate(tokens) if not token.visual or i in chosen]


def fastv(llm: PlainQwen2, number: int, tokens: list[Token], before: list[Array], count: int) -> list[Token]:
    """Attention of the last token in the layer before."""
    weights, _ = llm.attention(number - 1, before, [token.position for token in tokens])
    return best(tokens, weights[:, -1].mean(axis=0).tolist(), count)


def pdrop(llm: PlainQwen2, number: int, tokens: list[Token], before: list[Array], count: int) -> list[Token]:
    """Attention that the last token would have in the layer that follows."""
    del before
    weights, _ = llm.attention(number, [token.x for token in tokens], [token.position for token in tokens])
    return best(tokens, weights[:, -1].mean(axis=0).tolist(), count)


def sparsevlm(first: list[Token]) -> Chooser:
    """Attention of the raters in the layer before; the best of what is dropped is merged. ``first``: the prompt."""
    behind = max(i for i, token in enumerate(first) if token.visual) + 1
    shares = []
    for token in first:
        if token.visual:
            scores = np.array([token.x @ other.x for other in first[behind:]])
            shares.append(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
    mean = np.mean(shares, axis=0)
    raters = [i for i, share in enumerate(mean) if share > mean.mean()]

    def choose(llm: PlainQwen2, number: int, tokens: list[Token], before: list[Array], count: int) -> list[Token]:
        weights = llm.attention(number - 1, before, [token.position for token in tokens])[0].mean(axis=0)
        end = max(i for i, token in enumerate(tokens) if token.visual) + 1
        scores = np.mean([weights[end + i] for i in raters], axis=0).tolist()
        total = sum(token.visual for token in tokens)
        kept = 0
        while kept + 1 + clusters_of(total - kept - 1) <= count:
            kept += 1
        stay = best(tokens, scores, kept)
        lost = [i for i, token in enumerate(tokens) if not any(token is other for other in stay)]
        recycled = sorted(sorted(lost, key=lambda i: -scores[i])[: int(0.3 * len(lost)) + 1])
        merged = merge([tokens[i] for i in recycled], count - kept)
        last = max([i for i, token in enumerate(stay) if token.visual], default=min(lost) - 1) + 1
        return [*stay[:last], *merged, *stay[last:]]

    return choose


def clusters_of(dropped: int) -> int:
    return (int(0.3 * dropped) + 1) // 10 + 1


def merge(tokens: list[Token], clusters: int) -> list[Token]:
    """Density peaks: centres are dense and far from denser ones; each cluster becomes its mean."""
    distance = np.array([[np.linalg.norm(a.x - b.x) / math.sqrt(len(a.x)) for b in tokens] for a in tokens])
    density = [math.exp(-np.mean(np.sort(row)[:clusters] ** 2)) for row in distance]
    far = []
    for i in range(len(tokens)):
        denser = [distance[i, j] for j in range(len(tokens)) if density[j] > density[i]]
        far.append(min(denser, default=distance.max()))
    centres = sorted(sorted(range(len(tokens)), key=lambda i: -far[i] * density[i])[:clusters])
    groups: dict[int, list[Array]] = {centre: [] for centre in centres}
    for i, token in enumerate(tokens):
        groups[i if i in groups else min(centres, key=lambda c: distance[c, i])].append(token.x)
    return [Token(np.mean(groups[c], axis=0), tokens[c].position, visual=True) for c in centres]


def vidcom2(clip: Array, keep: int) -> list[list[int]]:
    """Kept tokens of each frame of a clip [F, M, D]: budgets by the softmax of uniqueness, F K in total."""

    def cosine(a: Array, b: Array) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    video = clip.reshape(-1, clip.shape[-1]).mean(axis=0)
    unlike = [[-cosine(token, video) for token in frame] for frame in clip]
    means = [sum(frame) / len(frame) for frame in unlike]
    raised = [math.exp((mean - max(means)) / 0.01) for mean in means]
    quotas = [keep * (1 + one / (sum(raised) + 1e-8) - 1 / len(clip)) for one in raised]
    counts = [min(int(quota), clip.shape[1]) for quota in quotas]
    while sum(counts) < keep * len(clip):
        open_ones = [i for i in range(len(clip)) if counts[i] < clip.shape[1]]
        counts[max(open_ones, key=lambda i: (quotas[i] - counts[i], -i))] += 1
    chosen = []
    for frame, own, count in zip(clip, unlike, counts, strict=True):
        scores = [u - cosine(token, frame.mean(axis=0)) for u, token in zip(own, frame, strict=True)]
        chosen.append(sorted(sorted(range(len(frame)), key=lambda i: -scores[i])[:count]))
    return chosen


def evs(clip: Array, keep: int) -> list[list[int]]:
    """Kept tokens of each frame of a clip [F, M, D]: the max(M, F K) that differ most from the frame before."""
    frames, places = len(clip), len(clip[0])
    ranked = []
    for frame in range(frames):
        for place in range(places):
            now, before = clip[frame][place], clip[frame - 1][place]
            cosine = float(now @ before / np.linalg.norm(now) / np.linalg.norm(before))
            ranked.append((-255.0 if frame == 0 else cosine - 1, frame, place))
    best = sorted(ranked)[: max(places, frames * keep)]
    return [sorted(place for _, number, place in best if number == frame) for frame in range(frames)]
