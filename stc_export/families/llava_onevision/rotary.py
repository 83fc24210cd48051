"""Rotary embedding, halves convention of Qwen2, with float32 arithmetic: in steps, or as one operator.

``rotary`` is a table of cosines and sines [S, head_dim / 2] in float32, and the row of each new token in it [1, S].
"""

from __future__ import annotations

from typing import Any

import torch

Rotary = tuple[Any, Any, Any]


def rotary_table(position_ids: Any, inv_freq: Any) -> Rotary:
    """Return ``rotary`` of new tokens at ``position_ids`` [1, S]."""
    angles = position_ids[0][:, None].float() * inv_freq
    return angles.cos(), angles.sin(), torch.arange(position_ids.shape[1], device=position_ids.device)[None]


def rotate_steps(x: Any, rotary: Rotary) -> Any:
    """Rotate x [1, heads, S, head_dim], decomposed."""
    cos, sin, _ = rotary
    first, second = x.float().chunk(2, dim=-1)
    # The tables are doubled here, once for all layers: the exporter finds that they are the same.
    cosines, sines = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return (x.float() * cosines + torch.cat([second, first], dim=-1) * sines).to(x.dtype)


def rotate(x: Any, rotary: Rotary) -> Any:
    """Rotate x [1, heads, S, head_dim] with one ``RotaryEmbedding``."""
    # The operator can do without rows and take [1, S, head_dim / 2]; the documentation of TensorRT has a table and rows
    # of it only.
    return torch.onnx.ops.rotary_embedding(x.float(), *rotary).to(x.dtype)
