"""STC-Pruner as the paper's text defines it: novelty against a temporal and a spatial anchor (section 3.4, eq. 8).

History: a window of the last W entries, owned by the host. A frame is scored first and its entry is pushed afterwards.
"""

from __future__ import annotations

import torch

from stc_export.pruners.cosine import cosine
from stc_export.pruners.ranking import keep_lowest


class StcDualAnchor(torch.nn.Module):
    """Keeps the K tokens of the highest score ``alpha * (1 - cos(z, a_t)) + (1 - alpha) * (1 - cos(z, a_s))``.

    The spatial anchor ``a_s`` is the mean of the frame's tokens before pruning. The temporal anchor ``a_t`` is the mean
    of the history. Without history ``a_t`` is zero and its cosine 0 for all tokens: the spatial term alone ranks. (With
    ``alpha`` = 1 nothing ranks the first frame, and it keeps its first K tokens.)

    Everything is computed in float32.
    """

    def forward(
        self,
        tokens: torch.Tensor,
        history: torch.Tensor,
        history_weights: torch.Tensor,
        alpha: torch.Tensor,
        carrier: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a frame and keep its K most novel tokens.

        Args:
            tokens: [M, D], projected and pooled.
            history: float32 [W, D], entries of earlier frames in any order; rows of weight 0 must be finite.
            history_weights: float32 [W]: 1 / count on filled rows, 0 on the others; all 0 when there is no history.
            alpha: float32 [1], weight of the temporal term, 0 to 1.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, their indices int64 [K] ascending (equal scores: lower index
            first), and the frame's history entry float32 [D].
        """
        z = tokens.to(torch.float32)
        spatial = z.mean(dim=0)
        temporal = (history_weights.unsqueeze(1) * history).sum(dim=0)
        score = alpha * (1.0 - cosine(z, temporal)) + (1.0 - alpha) * (1.0 - cosine(z, spatial))
        kept = keep_lowest(-score, carrier)
        return tokens.index_select(0, kept), kept, spatial
