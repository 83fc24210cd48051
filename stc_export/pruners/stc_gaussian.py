"""STC-Pruner as the released code computes it (lern-to-write/STC, ``model/prune.py``), one frame per call.

It differs from the paper's text: no cosine and no alpha, half of the channels, and a memory that is the mean of all
frames of the stream with the current one included. History: that mean, owned by the host as a running mean of entries.
"""

from __future__ import annotations

import torch

from stc_export.pruners.ranking import keep_lowest

#: Widths of the Gaussian kernels, 2**-3 to 2**1.
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
#: Norms below this count as this, as in ``torch.nn.functional.normalize``.
EPS = 1e-12


def selected_channels(width: int) -> int:
    """Return E, the number of channels that are compared, for token width D."""
    return int(width * 0.5)


class StcGaussian(torch.nn.Module):
    """Keeps the K tokens that are least similar to the memory and to the frame's centre.

    The E channels of lowest variance within the frame are selected, in ascending order of variance. An entry is the
    mean of the tokens on these channels *in that order*. Entries of different frames therefore hold different channels
    at the same place, and averaging them is what the published code does. Channels of exactly equal variance keep the
    order of the backend's TopK (ONNX: lower index first).

    Squared distances are taken from differences: writing them as norms and dot products loses four times the precision,
    and as MatMul it would be subject to TF32, which changes the kept tokens of frames with little texture.
    """

    def __init__(self, width: int) -> None:
        """Fix the number of channels for token width D."""
        super().__init__()
        self.channels = selected_channels(width)

    def forward(
        self, tokens: torch.Tensor, history: torch.Tensor, history_weights: torch.Tensor, carrier: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a frame and keep its K most distinct tokens.

        Args:
            tokens: [M, D], projected and pooled.
            history: float32 [W, E]. With W = 1: the mean of the entries of all n earlier frames (0 when n is 0).
            history_weights: float32 [W]. With W = 1: n / (n + 1). The current entry gets the rest of the weight, which
                makes the memory the mean of n + 1 entries.
            carrier: int64 [K], 1 <= K <= M; only its length is read.

        Returns:
            Kept tokens [K, D] in the type of ``tokens``, their indices int64 [K] ascending (equal scores: lower index
            first), and the frame's history entry float32 [E].
        """
        x = tokens.to(torch.float32)
        spread = x - x.mean(dim=0)
        variance = (spread * spread).mean(dim=0)
        x = x.index_select(1, torch.topk(variance, self.channels, largest=False).indices)
        entry = x.mean(dim=0)
        memory = (history_weights.unsqueeze(1) * history).sum(dim=0) + (1.0 - history_weights.sum()) * entry
        x = _normalize(x)
        score = _kernels(x, _normalize(memory)) + _kernels(x, x.mean(dim=0))
        kept = keep_lowest(score, carrier)
        return tokens.index_select(0, kept), kept, entry


def _normalize(x: torch.Tensor) -> torch.Tensor:
    return x / (x * x).sum(dim=-1, keepdim=True).sqrt().clamp_min(EPS)


def _kernels(rows: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    difference = rows - centre
    distance = (difference * difference).sum(dim=1)
    return sum(torch.exp(distance * (-0.5 / width)) for width in WIDTHS)
