"""The prompt through the layers of the LLM, with fewer visual tokens from layer to layer.

What the methods have in common: a share of the visual tokens for each layer, and one way to get from more to fewer.
*Equivalent retention*, by which they are compared with methods that prune before the LLM, is the mean of that share
over all layers (VidCom2, arXiv 2505.14454, after SparseVLM). ``pruner.keep`` is this mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stc_export.reference.model import TorchModel
from stc_export.spec.errors import PolicyError

#: Halvings that find the ratio between stages: more than float64 has bits.
_STEPS = 64


@dataclass(frozen=True, eq=False)
class View:
    """What a method sees between two layers. Rows are tokens: the sink, visual tokens, newline and question.

    Attributes:
        model: The model.
        layer: The layer that has run.
        following: The layer that will run.
        before: Input of ``layer`` [S, D].
        now: Its output [S, D].
        positions: int64 [S].
        visual: Rows of the visual tokens.
        embedded: The prompt as it entered the first layer [S0, D], with as many text rows behind the visual ones.
    """

    model: TorchModel
    layer: Any
    following: Any
    before: Tensor
    now: Tensor
    positions: Tensor
    visual: slice
    embedded: Tensor

    @property
    def text(self) -> int:
        """Rows behind the visual tokens."""
        behind: int = len(self.now) - self.visual.stop
        return behind


@dataclass(frozen=True, eq=False)
class Reduced:
    """What becomes of the visual tokens: [n, D] with their positions int64 [n]."""

    tokens: Tensor
    positions: Tensor


class Inside(Protocol):
    """A method that drops visual tokens between layers."""

    def shares(self, layers: int, keep: float) -> tuple[float, ...]:
        """Return the share of the visual tokens that each layer works on; their mean is ``keep``.

        Raises:
            PolicyError: The method cannot keep so little.
        """
        ...

    def reduce(self, view: View, count: int) -> Reduced:
        """Return ``count`` visual tokens."""
        ...


@dataclass(frozen=True, eq=False)
class Prompt:
    """Embeddings [S, D] of a whole prompt with their positions int64 [S], and which rows are visual tokens."""

    embeds: Tensor
    positions: Tensor
    visual: slice


def run_prompt(model: TorchModel, prompt: Prompt, counts: Sequence[int], method: Inside, cache: Any) -> Tensor:
    """Run a prompt through all layers; the cache then has a length of its own in each.

    Tokens keep their positions, whatever is dropped before them.

    Args:
        model: The model.
        prompt: What is run.
        counts: Visual tokens of each layer, never more than in the layer before.
        method: Drops them.
        cache: An empty ``DynamicCache``.

    Returns:
        Last hidden state [D], before the last norm.
    """
    x, positions, visual = prompt.embeds, prompt.positions, prompt.visual
    layers, before = model.language.layers, x
    for number, layer in enumerate(layers):
        if number and counts[number] < visual.stop - visual.start:
            view = View(model, layers[number - 1], layer, before, x, positions, visual, prompt.embeds)
            less = method.reduce(view, counts[number])
            x = torch.cat([x[: visual.start], less.tokens, x[visual.stop :]])
            positions = torch.cat([positions[: visual.start], less.positions, positions[visual.stop :]])
            visual = slice(visual.start, visual.start + len(less.tokens))
        before, x = x, run_layer(model, layer, x, positions, cache)
    return x[-1]


def run_layer(model: TorchModel, layer: Any, x: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Run one layer of transformers over new tokens [S, D]; of several, nothing may be in its cache yet."""
    mask = _causal(x) if model.form.masked and len(x) > 1 else None
    rotary = model.language.rotary_emb(x[None], positions[None])
    out: Tensor = layer(x[None], attention_mask=mask, position_embeddings=rotary, past_key_values=cache, use_cache=True)
    return out[0]


def _causal(x: Tensor) -> Tensor:
    lowest = torch.finfo(x.dtype).min
    return torch.full((1, 1, len(x), len(x)), lowest, dtype=x.dtype, device=x.device).triu(1)


def attention_weights(view: View, layer: Any, hidden: Tensor, rows: Tensor) -> Tensor:
    """Return the attention of some rows in a layer, the mean over its heads.

    Args:
        view: Where positions are.
        layer: The layer.
        hidden: Its input [S, D].
        rows: int64 [R].

    Returns:
        float32 [R, S], each row a distribution over the tokens that it sees.
    """
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb, repeat_kv

    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    rotary = view.model.language.rotary_emb(hidden[None], view.positions[None])
    heads = [p(normed).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)[None] for p in _projections(attention)]
    query, key = apply_rotary_pos_emb(*heads, *rotary)
    key = repeat_kv(key, attention.num_key_value_groups)
    scores = (query[0][:, rows] @ key[0].transpose(1, 2)).float() * attention.scaling
    later = torch.arange(len(hidden), device=rows.device)[None] > rows[:, None]
    weights: Tensor = scores.masked_fill(later, float("-inf")).softmax(dim=-1).mean(dim=0)
    return weights


def _projections(attention: Any) -> tuple[Any, Any]:
    return attention.q_proj, attention.k_proj


def highest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the ``count`` highest scores, ascending; of equal scores the lower index is kept."""
    return torch.argsort(scores, stable=True, descending=True)[:count].sort().values


def keep_rows(view: View, scores: Tensor, count: int) -> Reduced:
    """Return the ``count`` visual tokens of the highest scores, in their order."""
    kept = highest(scores, count) + view.visual.start
    return Reduced(view.now[kept], view.positions[kept])


def visual_counts(shares: Sequence[float], tokens: int) -> tuple[int, ...]:
    """Return the visual tokens of each layer: rounded down, at least 1."""
    return tuple(max(1, int(share * tokens + 1e-9)) for share in shares)


def staged_shares(method: str, bounds: Sequence[int], layers: int, keep: float) -> tuple[float, ...]:
    """Return shares 1, r, r^2, ... of stages, with the ratio r for which the mean over all layers is ``keep``.

    Args:
        method: Name, for the error.
        bounds: First layer of the second stage, of the third, ...
        layers: L.
        keep: Mean share.

    Raises:
        PolicyError: Not even r = 0 keeps so little.
    """
    stages = [sum(bound <= layer for bound in bounds) for layer in range(layers)]
    check_least(method, stages.count(0) / layers, keep)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        mean = sum(ratio**stage for stage in stages) / layers
        low, high = (ratio, high) if mean < keep else (low, ratio)
    return tuple(high**stage for stage in stages)


def check_least(method: str, least: float, keep: float) -> None:
    """Check that a method can keep so little on average.

    Raises:
        PolicyError: Its first layers alone keep as much.
    """
    if keep <= least:
        raise PolicyError(
            f"pruner.keep is {keep:g}, but {method} keeps all visual tokens in its first layers, "
            f"which alone are {least:.3g} of the mean over all layers.",
            f"Raise pruner.keep above {math.ceil(least * 1000) / 1000:g}.",
        )
