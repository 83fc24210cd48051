"""Keeping the K best tokens of a frame with operators that every backend builds.

The count comes from a shape and never from data, there is no Sort, and equal scores have one answer everywhere.
"""

from __future__ import annotations

import torch


def keep_lowest(scores: torch.Tensor, carrier: torch.Tensor) -> torch.Tensor:
    """Return the indices of the K lowest scores in ascending order.

    Of equal scores the lower index is kept. TopK alone does not promise that (torch and TensorRT leave ties open), so
    it ranks distinct integers instead: how many tokens come before a token. That costs M * M comparisons.

    Args:
        scores: float32 [M], finite; M at most 3840 for TensorRT's TopK.
        carrier: int64 [K] with 1 <= K <= M; only its length is read.

    Returns:
        int64 [K], strictly ascending.
    """
    index = torch.arange(scores.shape[0], device=scores.device)
    own, other = scores.unsqueeze(1), scores.unsqueeze(0)
    earlier = index.unsqueeze(0) < index.unsqueeze(1)
    rank = ((other < own) | ((other == own) & earlier)).to(torch.float32).sum(dim=1)
    best = torch.topk(rank, carrier.shape[0], largest=False).indices
    # Indices as float32 are exact below 2**24, and float32 is the one type that all TopK kernels share.
    return torch.topk(best.to(torch.float32), carrier.shape[0], largest=False).values.to(torch.int64)
