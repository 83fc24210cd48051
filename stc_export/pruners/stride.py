"""Tokens at even distances: the baseline that looks at nothing and leaves nothing to chance."""

from __future__ import annotations

import torch


class Stride(torch.nn.Module):
    """Keeps the token in the middle of each of K equal stretches of the raster order.

    That is index ``floor((2 j + 1) M / (2 K))`` for j = 0 to K - 1. M >= K makes the indices distinct. Computed in
    int64: float32 would be wrong from 2**24 on, and the products reach 2 * 3840 * 3840.
    """

    def forward(self, tokens: torch.Tensor, carrier: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep K tokens whatever they hold.

        Args:
            tokens: [M, D], projected and pooled.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, and their indices int64 [K], strictly ascending.
        """
        total, keep = tokens.shape[0], carrier.shape[0]
        middles = (2 * torch.arange(total, device=tokens.device) + 1) * total
        # Not torch.div(..., rounding_mode="trunc"): as ONNX that goes through float32.
        kept = middles[:keep] // (2 * keep)
        return tokens.index_select(0, kept), kept
