"""VisionZip (arXiv 2412.04467, dvlab-research/VisionZip): dominant tokens, and the others merged into contextual ones.

The published method works on the tokens of the vision transformer and has no pooling; here tokens, attention and keys
are pooled first, and what is merged are visual tokens, as the LLM gets them.
"""

from __future__ import annotations

import torch

from stc_export.pruners.cosine import EPS
from stc_export.pruners.ranking import earlier, keep_lowest, ranks

#: Contextual tokens are 5 of 32: the published 10 of 64, 20 of 128 and 30 of 192.
PART, WHOLE = 5, 32


class VisionZip(torch.nn.Module):
    """Keeps the tokens of the highest attention, and some of the others with the mean of the rest added to them.

    Of K tokens 5 K / 32 are *contextual*, rounded to the nearest, and the others *dominant*: those that received most.
    Of the N tokens that are not dominant each s-th is the target of a contextual one, s = floor(N / contextual). Each
    that is none joins the target with the most similar key (equal ones: lower index), and a target becomes its own
    token plus the mean of those that joined it. So a contextual token has a place, its target's.
    """

    def forward(
        self, tokens: torch.Tensor, attention: torch.Tensor, keys: torch.Tensor, carrier: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep K tokens.

        Args:
            tokens: [M, D], projected and pooled.
            attention: float32 [M], what each received, pooled like the tokens.
            keys: float32 [M, d], the mean over heads, pooled like the tokens.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, and their indices int64 [K] ascending (equal attention: lower
            index first).
        """
        # Whole numbers as float32, which every backend has all operators for; halves keep quotients off the border.
        kept = torch.ones_like(carrier, dtype=torch.float32).sum()
        contextual = torch.floor((PART * kept + (WHOLE // 2 + 0.5)) / WHOLE)
        rest = ranks(-attention) >= kept - contextual
        targets = rest & _at_even_distances(rest, contextual)
        merged = rest & ~targets
        indices = keep_lowest(merged.to(torch.float32), carrier)
        whole = (tokens.to(torch.float32) + _joined(tokens, keys, merged, targets)).to(tokens.dtype)
        return whole.index_select(0, indices), indices


def _at_even_distances(rest: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return bool [M]: which tokens are each s-th of ``rest`` bool [M], up to ``count``; others may be any."""
    place = (earlier(rest) & rest.unsqueeze(0)).to(torch.float32).sum(dim=1)
    step = torch.floor((rest.to(torch.float32).sum() + 0.5) / count.clamp_min(1.0))
    turn = torch.floor((place + 0.5) / step)
    return (turn * step == place) & (turn < count)


def _joined(tokens: torch.Tensor, keys: torch.Tensor, merged: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return for each target the mean of the tokens that join it, float32 [M, D]; 0 for all others.

    The similarities are written as sums of products, not as MatMul, because backends may run that in TF32.
    """
    unit = keys / (keys * keys).sum(dim=1, keepdim=True).sqrt().clamp_min(EPS)
    cosines = (unit.unsqueeze(1) * unit.unsqueeze(0)).sum(dim=2)
    allowed = torch.where(targets.unsqueeze(0), cosines, torch.full_like(cosines, -2.0))
    index = torch.arange(len(keys), device=keys.device).to(torch.float32)
    most = allowed >= allowed.amax(dim=1, keepdim=True)
    first = torch.where(most, index, torch.full_like(allowed, float(len(keys)))).amin(dim=1, keepdim=True)
    # Without a target every token would join the first: the last term leaves none.
    joins = ((index == first) & merged.unsqueeze(1) & targets.unsqueeze(0)).to(torch.float32)
    share = joins / joins.sum(dim=0, keepdim=True).clamp_min(1.0)
    return torch.matmul(share.transpose(0, 1), tokens.to(torch.float32))
