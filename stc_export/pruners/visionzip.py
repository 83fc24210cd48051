"""VisionZip's ranking (arXiv 2412.04467, dvlab-research/VisionZip): what received most attention in the ViT stays.

These are its dominant tokens. The published method also merges the rest into a few contextual tokens, which are not
here: a merged token has no place in the frame, and K would have to be shared out between the two kinds.
"""

from __future__ import annotations

import torch

from stc_export.pruners.ranking import keep_lowest


class VisionZip(torch.nn.Module):
    """Keeps the K tokens of the highest attention."""

    def forward(
        self, tokens: torch.Tensor, attention: torch.Tensor, carrier: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the K tokens that received most.

        Args:
            tokens: [M, D], projected and pooled.
            attention: float32 [M], pooled like the tokens.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, and their indices int64 [K] ascending (equal attention: lower
            index first).
        """
        kept = keep_lowest(-attention, carrier)
        return tokens.index_select(0, kept), kept
