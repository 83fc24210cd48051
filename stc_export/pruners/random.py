"""Pruning by chance: the baseline that a method which looks at the tokens has to beat at the same count."""

from __future__ import annotations

import torch

from stc_export.pruners.ranking import keep_lowest


class Random(torch.nn.Module):
    """Keeps the K tokens that drew the lowest noise. The host draws, so the graph itself is deterministic."""

    def forward(
        self, tokens: torch.Tensor, noise: torch.Tensor, carrier: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep K tokens whatever they hold.

        Args:
            tokens: [M, D], projected and pooled.
            noise: float32 [M], one number per token, drawn anew for each frame.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, and their indices int64 [K] ascending (equal noise: lower
            index first).
        """
        kept = keep_lowest(noise, carrier)
        return tokens.index_select(0, kept), kept
