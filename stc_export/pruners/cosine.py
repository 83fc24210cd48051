"""Cosine of tokens with a vector, or of each token with one of its own."""

from __future__ import annotations

import torch

#: Norms below this count as this, so that a cosine with a zero vector is 0.
EPS = 1e-8


def cosine(rows: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each row.

    Sums of products are written as such, not as MatMul, because backends may run a float32 MatMul in TF32.

    Args:
        rows: float32 [M, D].
        other: float32 [D], the same for all rows, or [M, D], one for each.

    Returns:
        float32 [M]; 0 where one of the two is zero.
    """
    return (rows * other).sum(dim=1) / (_norm(rows) * _norm(other))


def _norm(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum(dim=-1).sqrt().clamp_min(EPS)
