"""VidCom2's token scores as its paper defines them (arXiv 2505.14454), over a window of the stream.

K is given. The paper's frame budgets, which spread a count over the frames of a clip, are the runtime's (policy
``pruner.budget``), for any method.
History: a window of the last W entries, owned by the host. A frame is scored first and its entry is pushed afterwards.
"""

from __future__ import annotations

import torch

from stc_export.pruners.cosine import cosine
from stc_export.pruners.ranking import keep_lowest


class VidCom2(torch.nn.Module):
    """Keeps the K tokens of the highest ``-cos(z, g_v) - cos(z, g_f)``.

    ``g_f`` is the mean of the frame's tokens. ``g_v`` is the mean of the clip's tokens in the paper. A stream has no
    clip: here it is the mean over the frames of the history and the current one, which is the clip as far as it was
    seen, while that is no more than W + 1 frames. In the first frame both are the same.

    Everything is computed in float32.
    """

    def forward(
        self, tokens: torch.Tensor, history: torch.Tensor, history_weights: torch.Tensor, carrier: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a frame and keep its K most unique tokens.

        Args:
            tokens: [M, D], projected and pooled.
            history: float32 [W, D], entries of earlier frames in any order; rows of weight 0 must be finite.
            history_weights: float32 [W]: 1 / count on filled rows, 0 on the others; all 0 when there is no history.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, their indices int64 [K] ascending (equal scores: lower index
            first), and the frame's history entry float32 [D].
        """
        z = tokens.to(torch.float32)
        frame = z.mean(dim=0)
        earlier = (history_weights > 0).to(torch.float32).sum()
        past = (history_weights.unsqueeze(1) * history).sum(dim=0)
        video = (earlier * past + frame) / (earlier + 1.0)
        kept = keep_lowest(cosine(z, video) + cosine(z, frame), carrier)
        return tokens.index_select(0, kept), kept, frame
