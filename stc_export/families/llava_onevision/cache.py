"""What the decoder does with its past: the two forms in which the graph ``llm`` reads and keeps keys and values.

``told`` is what the graph gets of the memory beside keys and values. Tokens are S new ones behind P slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from stc_export.exporter.operators import tensor_scatter
from stc_export.families.llava_onevision.coding import Coding, Kept

#: Added to the score of a token that must not be seen; representable in half precision.
HIDDEN = -65504.0

Pair = tuple[Any, Any]
#: Keys and values.
KeptPair = tuple[Kept, Kept]


class Cache(Protocol):
    """Keys and values of the past, and those of the new tokens."""

    def places(self, told: Sequence[Any], count: Any) -> Pair:
        """Return what all layers need to know, computed once.

        Args:
            told: Inputs of the graph.
            count: S.
        """
        ...

    def attend(self, query: Any, new: Pair, past: KeptPair, places: Pair) -> tuple[Any, KeptPair]:
        """Attend to past and new tokens.

        Args:
            query: [1, heads, S, head_dim].
            new: Keys and values of the new tokens [1, kv heads, S, head_dim].
            past: Keys and values of P slots, as they are kept.
            places: From :meth:`places`.

        Returns:
            [heads, S, head_dim], and the keys and values that the graph gives back, as they are kept.
        """
        ...


@dataclass(frozen=True)
class Beside:
    """Two products whose scores are joined before one softmax; the host stores the new keys and values.

    Attributes:
        coding: How keys and values are kept.
    """

    coding: Coding

    def places(self, told: Sequence[Any], count: Any) -> Pair:
        """``told``: bias of past slots [1, P]. Returns it as [P], and the causal bias of new tokens [S, S]."""
        (bias,) = told
        order = torch.arange(count, device=bias.device)
        return bias[0], torch.where(order[:, None] >= order[None, :], 0.0, HIDDEN).to(bias.dtype)

    def attend(self, query: Any, new: Pair, past: KeptPair, places: Pair) -> tuple[Any, KeptPair]:
        """See :class:`Cache`."""
        (past_keys, past_values), coding = past, self.coding
        own_keys, own_values = coding.keep(*new)
        length, kv_heads = past_keys[0].shape[2], past_keys[0].shape[1]
        groups = query.shape[1] // kv_heads
        # [1, kv heads, groups * S, head_dim]: the queries of a group share their keys, which are never repeated. Four
        # axes throughout: every change of shape is an operator, and a step of one token has hundreds of them.
        grouped = (query * (query.shape[-1] ** -0.5 * coding.step)).reshape(1, kv_heads, -1, query.shape[-1])
        old = coding.scores(grouped, past_keys) + places[0]
        own = coding.scores(grouped, own_keys) + places[1].repeat(groups, 1)
        scores = torch.cat([old, own], dim=-1)
        weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
        sums = coding.mix(weights[..., :length], past_values) + coding.mix(weights[..., length:], own_values)
        mixed = coding.mixed(sums)
        return mixed.reshape(query.shape[1], -1, query.shape[-1]), (own_keys, own_values)


@dataclass(frozen=True)
class InPlace:
    """New keys and values are written into the past, which is then attended to as a whole.

    Attributes:
        attention: (query, keys, values, mask [S, P]) -> [heads, S, head_dim].
        coding: How keys and values are kept.
    """

    attention: Callable[[Any, Any, Any, Any], Any]
    coding: Coding

    def places(self, told: Sequence[Any], count: Any) -> Pair:
        """``told``: bias of slots [1, P], first slot of the new tokens [1]. Returns mask [S, P] and that slot.

        A new token sees slots whose bias is 0, and the new slots up to its own.
        """
        bias, slot = told
        slots = torch.arange(bias.shape[1], device=bias.device)
        own = slot + torch.arange(count, device=bias.device)
        fresh = (slots[None, :] >= slot) & (slots[None, :] <= own[:, None])
        return torch.where(fresh, torch.zeros_like(bias), bias), slot

    def attend(self, query: Any, new: Pair, past: KeptPair, places: Pair) -> tuple[Any, KeptPair]:
        """See :class:`Cache`."""
        mask, slot = places
        fresh = self.coding.keep(*new)
        keys, values = (_written(before, own, slot) for before, own in zip(past, fresh, strict=True))
        mixed = self.attention(query, self.coding.rows(keys, query), self.coding.rows(values, query), mask)
        return mixed, (keys, values)


def _written(past: Kept, fresh: Kept, slot: Any) -> Kept:
    return tuple(tensor_scatter(before, new, slot) for before, new in zip(past, fresh, strict=True))
