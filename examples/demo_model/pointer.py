"""Where the place of the answer looks: one head of the last layer is taught to look at the option with the answer."""

from __future__ import annotations

from typing import Any

import torch
from packing import Batch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

#: The head that looks; any would do.
_HEAD = 0


def pointer_scores(model: Any, batch: Batch, before: torch.Tensor) -> torch.Tensor:
    """Return how much the place of the answer is drawn to each option in the last layer, before the softmax.

    Knowing the answer's word and knowing its letter are two things; between them is this look-up, which the loss of the
    letter alone teaches slowly, because nothing is right before the look-up and the copying are both there.

    Args:
        model: The demo model.
        batch: What is packed.
        before: What the last layer gets: float32 [B * S, D].

    Returns:
        float32 [B * Q, 4].
    """
    llm = model.model.language_model
    layer = llm.layers[-1]
    attention, hidden = layer.self_attn, layer.input_layernorm(before)
    cos, sin = (part.flatten(0, 1) for part in llm.rotary_emb(before, batch.positions))
    query = _heads(attention.q_proj(hidden[batch.places]), attention)[:, None, _HEAD]
    key = _heads(attention.k_proj(hidden[batch.options]), attention)[:, :, _HEAD // attention.num_key_value_groups]
    places = batch.places[:, None]
    query, _ = apply_rotary_pos_emb(query, query, cos[places], sin[places], unsqueeze_dim=0)
    key, _ = apply_rotary_pos_emb(key, key, cos[batch.options], sin[batch.options], unsqueeze_dim=0)
    return (query * key).squeeze(0).sum(-1) * attention.scaling


def _heads(states: torch.Tensor, attention: Any) -> torch.Tensor:
    return states.unflatten(-1, (-1, attention.head_dim))
