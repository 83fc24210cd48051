"""The ``llm`` graph: a Qwen2 decoder that reads past keys and values without copying them.

Past and new tokens are attended to in two products whose scores are joined before one softmax. The graph returns only
the keys and values of the S new tokens, the host writes them into its buffers, and no step copies the cache.
``past_bias`` hides slots of the buffers that hold nothing, so the host may pass buffers longer than what they hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stc_export.families.llava_onevision.blocks import Linear, RMSNorm
from stc_export.families.llava_onevision.config import LlavaConfig

#: Added to the score of a token that must not be seen; representable in half precision.
HIDDEN = -65504.0


class DecoderLayer(nn.Module):
    """One Qwen2 layer with fused q/k/v and gate/up."""

    def __init__(self, config: LlavaConfig, dtype: Any) -> None:
        """Create the layer without initialising it."""
        super().__init__()
        text = config.dims.text
        self.q_heads, self.kv_heads, self.groups = text.heads, text.kv_heads, text.heads // text.kv_heads
        self.head_dim, self.mlp_width = text.head_dim, text.mlp_width
        self.norm1 = RMSNorm(text.width, config.text_eps)
        self.norm2 = RMSNorm(text.width, config.text_eps)
        fused = (text.heads + 2 * text.kv_heads) * text.head_dim
        self.qkv = Linear(text.width, fused, bias=True, dtype=dtype)
        self.out = Linear(text.heads * text.head_dim, text.width, bias=False, dtype=dtype)
        self.gate_up = Linear(text.width, 2 * text.mlp_width, bias=False, dtype=dtype)
        self.down = Linear(text.mlp_width, text.width, bias=False, dtype=dtype)

    def heads(self, x: Any) -> Any:
        """[S, heads * head_dim] -> [1, heads, S, head_dim]."""
        return x.unflatten(1, (-1, self.head_dim)).permute(1, 0, 2)[None]

    def forward(self, x: Any, rotary: tuple[Any, Any], biases: tuple[Any, Any], past: tuple[Any, Any]) -> Any:
        """Run the layer.

        Args:
            x: [S, D].
            rotary: Cosines and sines [S, head_dim / 2] in float32.
            biases: Bias of past slots [P], causal bias of new tokens [S, S].
            past: Keys and values [1, kv heads, P, head_dim].

        Returns:
            New x, keys and values of the new tokens [1, kv heads, S, head_dim].
        """
        # Heads first: queries and keys are rotated together, and one transpose serves all three.
        rotated, value = self.heads(self.qkv(self.norm1(x))).split([self.q_heads + self.kv_heads, self.kv_heads], dim=1)
        query, key = rotate(rotated, rotary).split([self.q_heads, self.kv_heads], dim=1)
        x = x + self.out(self.attend(query, (key, value), biases, past))
        gate, up = self.gate_up(self.norm2(x)).split(self.mlp_width, dim=-1)
        return x + self.down(F.silu(gate) * up), key, value

    def attend(self, query: Any, new: tuple[Any, Any], biases: tuple[Any, Any], past: tuple[Any, Any]) -> Any:
        """Grouped-query attention over past and new tokens, [S, heads * head_dim]."""
        length = past[0].shape[2]
        # Squeezed, not indexed: x[0] exports to a Gather, which would copy the whole cache in every step.
        (past_keys, past_values), (own_keys, own_values) = ((x.squeeze(0) for x in pair) for pair in (past, new))
        # [kv heads, groups, S, head_dim]: the queries of a group share their keys, which are never repeated.
        grouped = (query.squeeze(0) * self.head_dim**-0.5).unflatten(0, (self.kv_heads, self.groups))
        old = torch.matmul(grouped.flatten(1, 2), past_keys.transpose(1, 2)) + biases[0]
        own = torch.matmul(grouped, own_keys[:, None].transpose(2, 3)) + biases[1]
        scores = torch.cat([old, own.flatten(1, 2)], dim=-1)
        weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
        mixed = torch.matmul(weights[..., :length], past_values) + torch.matmul(weights[..., length:], own_values)
        return mixed.unflatten(1, (self.groups, -1)).flatten(0, 1).permute(1, 0, 2).flatten(1)


def rotate(x: Any, rotary: tuple[Any, Any]) -> Any:
    """Rotary embedding, halves convention of Qwen2, with float32 arithmetic: x [1, heads, S, head_dim]."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = rotary
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Decoder(nn.Module):
    """``llm``: embeddings of S new tokens -> logits of the last one and the new keys and values."""

    def __init__(self, config: LlavaConfig, dtype: Any) -> None:
        """Create the graph's module without initialising it."""
        super().__init__()
        text = config.dims.text
        self.layers = nn.ModuleList([DecoderLayer(config, dtype) for _ in range(text.layers)])
        self.norm = RMSNorm(text.width, config.text_eps)
        self.head = Linear(text.width, text.vocab, bias=False, dtype=dtype)
        self.inv_freq = nn.Parameter(torch.empty(text.head_dim // 2, dtype=torch.float32), requires_grad=False)

    def forward(self, embeds: Any, position_ids: Any, past_bias: Any, keys: list[Any], values: list[Any]) -> Any:
        """Run the decoder.

        Args:
            embeds: [1, S, D].
            position_ids: [1, S] int64.
            past_bias: [1, P]: 0 for a slot that holds a token, ``HIDDEN`` for one that does not.
            keys: Past keys per layer, rotated, [1, kv heads, P, head_dim].
            values: Past values per layer, the same shape.

        Returns:
            Logits [1, V] of the last new token in float32, then new keys and values per layer [1, kv heads, S,
            head_dim].
        """
        angles = position_ids[0][:, None].float() * self.inv_freq
        rotary = (angles.cos(), angles.sin())
        order = torch.arange(embeds.shape[1], device=embeds.device)
        causal = torch.where(order[:, None] >= order[None, :], 0.0, HIDDEN).to(embeds.dtype)
        x = embeds[0]
        new_keys, new_values = [], []
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            x, k, v = layer(x, rotary, (past_bias[0], causal), (key, value))
            new_keys.append(k)
            new_values.append(v)
        return self.head(self.norm(x[-1:])).float(), *new_keys, *new_values
