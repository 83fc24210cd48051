"""Keeping the K best tokens of a frame with operators that every backend builds.

The count comes from a shape and never from data, there is no Sort, and equal scores have one answer everywhere.
"""

from __future__ import annotations

import torch


def keep_lowest(scores: torch.Tensor, carrier: torch.Tensor) -> torch.Tensor:
    """Return the indices of the K lowest scores in ascending order.

    Of equal scores the lower index is kept. TopK alone does not promise that (torch and TensorRT leave ties open), so
    it gets distinct integers instead, the ranks.

    Args:
        scores: float32 [M], finite; M at most 3840 for TensorRT's TopK.
        carrier: int64 [K] with 1 <= K <= M; only its length is read.

    Returns:
        int64 [K], strictly ascending.
    """
    best = torch.topk(ranks(scores), carrier.shape[0], largest=False).indices
    # Indices as float32 are exact below 2**24, and float32 is the one type that all TopK kernels share.
    return torch.topk(best.to(torch.float32), carrier.shape[0], largest=False).values.to(torch.int64)


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """Return how many tokens come before each one, float32 [M]: those of lower scores, and equal ones of lower index.

    That costs M * M comparisons.
    """
    own, other = scores.unsqueeze(1), scores.unsqueeze(0)
    return ((other < own) | ((other == own) & earlier(scores))).to(torch.float32).sum(dim=1)


def earlier(scores: torch.Tensor) -> torch.Tensor:
    """Return bool [M, M]: whether the token of the column has a lower index than that of the row."""
    index = torch.arange(scores.shape[0], device=scores.device)
    return index.unsqueeze(0) < index.unsqueeze(1)
