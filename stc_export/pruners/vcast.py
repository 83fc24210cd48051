"""V-CAST's token scores (arXiv 2603.27650, as its released code computes them), which look at one frame only.

Its frame budgets are left out: they need the next frame, and a count that differs from frame to frame.
"""

from __future__ import annotations

import torch

from stc_export.pruners.cosine import cosine
from stc_export.pruners.ranking import keep_lowest

#: Added to the range of the norms, as in the released code: a frame whose tokens are equally long has a range of 0.
EPS = 1e-6


class VCast(torch.nn.Module):
    """Keeps the K tokens of the highest ``1 - cos(z, mean) + (|z| - least) / (most - least)``.

    ``mean`` is that of the frame's tokens, ``least`` and ``most`` are the extremes of their norms. Everything is
    computed in float32.
    """

    def forward(self, tokens: torch.Tensor, carrier: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a frame and keep its K outlying and long tokens.

        Args:
            tokens: [M, D], projected and pooled.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, and their indices int64 [K] ascending (equal scores: lower
            index first).
        """
        z = tokens.to(torch.float32)
        norms = (z * z).sum(dim=1).sqrt()
        least = norms.amin(dim=0)
        score = 1.0 - cosine(z, z.mean(dim=0)) + (norms - least) / (norms.amax(dim=0) - least + EPS)
        kept = keep_lowest(-score, carrier)
        return tokens.index_select(0, kept), kept
