"""Attention in the forms that graphs have: products with a softmax between them, or one operator of ONNX.

TensorRT has a kernel for the operator in half precision only, and none of it takes float32.
"""

from __future__ import annotations

from typing import Any

import torch


def vision_steps(query: Any, keys: Any, values: Any) -> Any:
    """Attention of the ViT, decomposed.

    Args:
        query: [heads, R, head_dim].
        keys: [heads, T, head_dim].
        values: [heads, T, head_dim].

    Returns:
        [heads, R, head_dim].
    """
    # The scale is applied to q before the product: fewer operations, and safe in half precision.
    scores = torch.matmul(query * query.shape[-1] ** -0.5, keys.transpose(1, 2))
    return torch.matmul(torch.softmax(scores, dim=-1), values)


def received(query: Any, keys: Any) -> Any:
    """Attention that tokens of the ViT receive: the mean of its weights over heads and queries.

    The operations are those of :func:`vision_steps`, where the exporter finds them again and computes them once. One
    ``Attention`` does not give its weights, so beside that they are computed for this alone.

    Args:
        query: [heads, R, head_dim].
        keys: [heads, T, head_dim].

    Returns:
        float32 [T]; the sum is 1.
    """
    scores = torch.matmul(query * query.shape[-1] ** -0.5, keys.transpose(1, 2))
    return torch.softmax(scores, dim=-1).float().mean((0, 1))


def vision(query: Any, keys: Any, values: Any) -> Any:
    """Attention of the ViT as one ``Attention``; shapes as in :func:`vision_steps`."""
    scale = query.shape[-1] ** -0.5
    return torch.onnx.ops.attention(query[None], keys[None], values[None], scale=scale)[0].squeeze(0)


def masked_steps(query: Any, keys: Any, values: Any, mask: Any) -> Any:
    """Grouped attention of the decoder, decomposed, with the softmax in float32.

    Args:
        query: [1, heads, S, head_dim].
        keys: [1, kv heads, P, head_dim].
        values: [1, kv heads, P, head_dim].
        mask: [S, P], added to the scores.

    Returns:
        [heads, S, head_dim].
    """
    kv_heads = keys.shape[1]
    groups = query.shape[1] // kv_heads
    # [kv heads, groups, S, head_dim]: the queries of a group share their keys, which are never repeated.
    grouped = (query.squeeze(0) * query.shape[-1] ** -0.5).unflatten(0, (kv_heads, groups))
    scores = torch.matmul(grouped.flatten(1, 2), keys.squeeze(0).transpose(1, 2)).unflatten(1, (groups, -1)) + mask
    weights = torch.softmax(scores.float(), dim=-1).to(query.dtype)
    mixed = torch.matmul(weights.flatten(1, 2), values.squeeze(0))
    return mixed.unflatten(1, (groups, -1)).flatten(0, 1)


def masked(query: Any, keys: Any, values: Any, mask: Any) -> Any:
    """Grouped attention of the decoder as one ``Attention``; shapes as in :func:`masked_steps`."""
    return torch.onnx.ops.attention(query, keys, values, mask, scale=query.shape[-1] ** -0.5)[0].squeeze(0)
