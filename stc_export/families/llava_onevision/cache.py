"""What the decoder does with its past: the two forms in which the graph ``llm`` reads and keeps keys and values.

``told`` is what the graph gets of the memory beside keys and values. Tokens are S new ones behind P slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from stc_export.exporter.operators import tensor_scatter

#: Added to the score of a token that must not be seen; representable in half precision.
HIDDEN = -65504.0

Pair = tuple[Any, Any]


class Cache(Protocol):
    """Keys and values of the past, and those of the new tokens."""

    def places(self, told: Sequence[Any], count: Any) -> Pair:
        """Return what all layers need to know, computed once.

        Args:
            told: Inputs of the graph.
            count: S.
        """
        ...

    def attend(self, query: Any, new: Pair, past: Pair, places: Pair) -> tuple[Any, Pair]:
        """Attend to past and new tokens.

        Args:
            query: [1, heads, S, head_dim].
            new: Keys and values of the new tokens [1, kv heads, S, head_dim].
            past: Keys and values [1, kv heads, P, head_dim].
            places: From :meth:`places`.

        Returns:
            [heads, S, head_dim], and the keys and values that the graph gives back.
        """
        ...


class Beside:
    """Two products whose scores are joined before one softmax; the host stores the new keys and values."""

    def places(self, told: Sequence[Any], count: Any) -> Pair:
        """``told``: bias of past slots [1, P]. Returns it as [P], and the causal bias of new tokens [S, S]."""
        (bias,) = told
        order = torch.arange(count, device=bias.device)
        return bias[0], torch.where(order[:, None] >= order[None, :], 0.0, HIDDEN).to(bias.dtype)

    def attend(self, query: Any, new: Pair, past: Pair, places: Pair) -> tuple[Any, Pair]:
        """See :class:`Cache`."""
        (past_keys, past_values), (own_keys, own_values) = past, new
        length, kv_heads = past_keys.shape[2], past_keys.shape[1]
        groups = query.shape[1] // kv_heads
        # [1, kv heads, groups * S, head_dim]: the queries of a group share their keys, which are never repeated. Four
        # axes throughout: every change of shape is an operator, and a step of one token has hundreds of them.
        grouped = (query * query.shape[-1] ** -0.5).reshape(1, kv_heads, -1, query.shape[-1])
        old = torch.matmul(grouped, past_keys.transpose(2, 3)) + places[0]
        own = torch.matmul(grouped, own_keys.transpose(2, 3)) + places[1].repeat(groups, 1)
        scores = torch.cat([old, own], dim=-1)
        weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
        mixed = torch.matmul(weights[..., :length], past_values) + torch.matmul(weights[..., length:], own_values)
        return mixed.reshape(query.shape[1], -1, query.shape[-1]), new


@dataclass(frozen=True)
class InPlace:
    """New keys and values are written into the past, which is then attended to as a whole.

    Attributes:
        attention: (query, keys, values, mask [S, P]) -> [heads, S, head_dim].
    """

    attention: Callable[[Any, Any, Any, Any], Any]

    def places(self, told: Sequence[Any], count: Any) -> Pair:
        """``told``: bias of slots [1, P], first slot of the new tokens [1]. Returns mask [S, P] and that slot.

        A new token sees slots whose bias is 0, and the new slots up to its own.
        """
        bias, slot = told
        slots = torch.arange(bias.shape[1], device=bias.device)
        own = slot + torch.arange(count, device=bias.device)
        fresh = (slots[None, :] >= slot) & (slots[None, :] <= own[:, None])
        return torch.where(fresh, torch.zeros_like(bias), bias), slot

    def attend(self, query: Any, new: Pair, past: Pair, places: Pair) -> tuple[Any, Pair]:
        """See :class:`Cache`."""
        mask, slot = places
        keys, values = (tensor_scatter(before, fresh, slot) for before, fresh in zip(past, new, strict=True))
        return self.attention(query, keys, values, mask), (keys, values)
