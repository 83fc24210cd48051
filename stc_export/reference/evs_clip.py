"""EVS as published (arXiv 2510.14624, as vLLM computes it): one ranking over the tokens of a whole clip."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

#: Dissimilarity of the tokens of the first frame, above any other.
_FIRST = 255.0


def evs_clip(clip: Tensor, keep: int) -> list[Tensor]:
    """Return the kept indices of each frame, which may be none.

    A token's dissimilarity is ``1 - cos`` with the one at its place in the frame before. The best max(M, F K) of the
    clip stay, of equal ones the earlier, so the first frame is whole.

    Args:
        clip: Visual tokens [F, M, D].
        keep: K, tokens of a frame on average.
    """
    frames, tokens = clip.shape[:2]
    z = clip.float()
    scores = torch.full((frames, tokens), _FIRST, device=clip.device)
    scores[1:] = 1 - cosine_similarity(z[1:], z[:-1], dim=-1)
    best = torch.argsort(scores.flatten(), descending=True, stable=True)[: evs_clip_tokens(frames, tokens, keep)]
    stays = torch.zeros(frames * tokens, dtype=torch.bool, device=clip.device).index_fill_(0, best, value=True)
    return [row.nonzero().flatten() for row in stays.reshape(frames, tokens)]


def evs_clip_tokens(frames: int, tokens: int, keep: int) -> int:
    """Return how many tokens stay of ``frames`` frames of ``tokens``: ``keep`` of each, at least one frame whole."""
    return max(tokens, frames * keep)
