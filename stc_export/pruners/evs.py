"""EVS' ranking (arXiv 2510.14624, as vLLM computes it): what changed most since the previous frame stays.

TimeChat-Online's DTD (arXiv 2504.17343, on features) and DyCoke's temporal stage (arXiv 2411.15024) have this score.
EVS takes a frame's count from one ranking over the whole video, DTD from a threshold, DyCoke from its place among four;
here K is given, and such counts are the runtime's (policy ``pruner.budget``).
History: the entry of the previous frame, owned by the host. A frame is scored first and its entry replaces that one.
"""

from __future__ import annotations

import torch

from stc_export.pruners.cosine import cosine
from stc_export.pruners.ranking import keep_lowest


class Evs(torch.nn.Module):
    """Keeps the K tokens of the lowest cosine with the token at the same place in the previous frame.

    The previous frame is the whole one, not what was kept of it. The published methods keep all of the first frame,
    which nothing ranks; with K tokens these are the first K, the order that EVS gives to equal scores.

    Everything is computed in float32.
    """

    def forward(
        self, tokens: torch.Tensor, history: torch.Tensor, history_weights: torch.Tensor, carrier: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a frame and keep its K most changed tokens.

        Args:
            tokens: [M, D], projected and pooled.
            history: float32 [W, M * D] with W = 1: the tokens of the previous frame, row after row.
            history_weights: float32 [W]: 1, and 0 when there is no previous frame.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, their indices int64 [K] ascending (equal scores: lower index
            first), and the frame's history entry float32 [M * D].
        """
        z = tokens.to(torch.float32)
        previous = (history_weights.unsqueeze(1) * history).sum(dim=0).reshape(z.shape)
        kept = keep_lowest(cosine(z, previous), carrier)
        return tokens.index_select(0, kept), kept, z.reshape(-1)
