"""The ``llm`` graph: a Qwen2 decoder that reads past keys and values without copying them.

How past and new tokens meet is a part that differs (:mod:`stc_export.families.llava_onevision.cache`): in two products,
of which the host stores the new keys and values, or in one cache that the graph writes in place. Either way no step
copies the cache. ``past_bias`` hides slots that hold nothing, so the host may pass buffers longer than what they hold.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stc_export.families.llava_onevision.blocks import Linear, RMSNorm
from stc_export.families.llava_onevision.cache import Cache, KeptPair
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.parts import Parts
from stc_export.families.llava_onevision.rotary import Rotary, rotary_table


class DecoderLayer(nn.Module):
    """One Qwen2 layer with fused q/k/v and gate/up."""

    def __init__(self, config: LlavaConfig, dtype: Any, parts: Parts, cache: Cache) -> None:
        """Create the layer without initialising it."""
        super().__init__()
        text = config.dims.text
        self.q_heads, self.kv_heads = text.heads, text.kv_heads
        self.head_dim, self.mlp_width = text.head_dim, text.mlp_width
        self.rotate, self.cache = parts.rotate, cache
        self.norm1 = RMSNorm(text.width, config.text_eps, parts.rms_norm)
        self.norm2 = RMSNorm(text.width, config.text_eps, parts.rms_norm)
        fused = (text.heads + 2 * text.kv_heads) * text.head_dim
        self.qkv = Linear(text.width, fused, bias=True, dtype=dtype)
        self.out = Linear(text.heads * text.head_dim, text.width, bias=False, dtype=dtype)
        self.gate_up = Linear(text.width, 2 * text.mlp_width, bias=False, dtype=dtype)
        self.down = Linear(text.mlp_width, text.width, bias=False, dtype=dtype)

    def heads(self, x: Any) -> Any:
        """[S, heads * head_dim] -> [1, heads, S, head_dim]."""
        return x.unflatten(1, (-1, self.head_dim)).permute(1, 0, 2)[None]

    def forward(self, x: Any, rotary: Rotary, places: tuple[Any, Any], past: KeptPair) -> Any:
        """Run the layer.

        Args:
            x: [S, D].
            rotary: Of the new tokens.
            places: What the cache needs to know of slots and new tokens.
            past: Keys and values of P slots, as they are kept.

        Returns:
            New x, and the keys and values that the cache gives back, as they are kept.
        """
        # Heads first: queries and keys are rotated together, and one transpose serves all three.
        rotated, value = self.heads(self.qkv(self.norm1(x))).split([self.q_heads + self.kv_heads, self.kv_heads], dim=1)
        query, key = self.rotate(rotated, rotary).split([self.q_heads, self.kv_heads], dim=1)
        mixed, kept = self.cache.attend(query, (key, value), past, places)
        x = x + self.out(mixed.permute(1, 0, 2).flatten(1))
        gate, up = self.gate_up(self.norm2(x)).split(self.mlp_width, dim=-1)
        return x + self.down(F.silu(gate) * up), kept


class Decoder(nn.Module):
    """``llm``: embeddings of S new tokens -> logits of the last one, and keys and values."""

    def __init__(self, config: LlavaConfig, dtype: Any, parts: Parts, cache: Cache) -> None:
        """Create the graph's module without initialising it."""
        super().__init__()
        text = config.dims.text
        self.cache = cache
        self.layers = nn.ModuleList([DecoderLayer(config, dtype, parts, cache) for _ in range(text.layers)])
        self.norm = RMSNorm(text.width, config.text_eps, parts.rms_norm)
        self.head = Linear(text.width, text.vocab, bias=False, dtype=dtype)
        self.inv_freq = nn.Parameter(torch.empty(text.head_dim // 2, dtype=torch.float32), requires_grad=False)

    def forward(self, embeds: Any, position_ids: Any, told: list[Any], past: list[list[Any]]) -> Any:
        """Run the decoder.

        Args:
            embeds: [1, S, D].
            position_ids: [1, S] int64.
            told: What the cache is told: ``past_bias`` [1, P], 0 for a slot that holds a token and ``HIDDEN`` for one
                that does not; and ``write_slot`` [1] int64, if the graph writes the new keys and values itself.
            past: What is kept of rotated keys and of values: for each tensor of ``KV_STATE`` that of every layer,
                [1, kv heads, P, head_dim or 1].

        Returns:
            Logits [1, V] of the last new token in float32, then the same tensors: those of the S new tokens, or of the
            whole cache with them in it.
        """
        rotary = rotary_table(position_ids, self.inv_freq)
        places = self.cache.places(told, embeds.shape[1])
        x = embeds[0]
        kept, half = [], len(past) // 2
        for layer, tensors in zip(self.layers, zip(*past, strict=True), strict=True):
            x, (keys, values) = layer(x, rotary, places, (tensors[:half], tensors[half:]))
            kept.append((*keys, *values))
        return self.head(self.norm(x[-1:])).float(), *chain.from_iterable(zip(*kept, strict=True))
