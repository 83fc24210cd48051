"""VidCom2 as published (arXiv 2505.14454, section 3): a budget for each frame of a whole clip, then its best tokens."""

from __future__ import annotations

import math
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_export.reference.inside import highest

#: Temperature of the softmax over frames, and what is added to its sum.
_TEMPERATURE, _EPS = 0.01, 1e-8


def vidcom2_clip(clip: Tensor, keep: int) -> list[Tensor]:
    """Return the kept indices of each frame.

    The uniqueness of a token is ``-cos(z, g_v) - cos(z, g_f)`` with the means of clip and frame. A frame's share grows
    with the softmax of the mean of its first term. The released code compares with Gaussian kernels on half of the
    channels; this is the paper's text, cosines on all of them. Its counts are rounded to the nearest and miss the
    total; here the largest remainders get what is missing, so that exactly F K tokens stay.

    Args:
        clip: Visual tokens [F, M, D].
        keep: K, tokens of a frame on average.
    """
    z = clip.float()
    to_video = -_cosine(z, z.mean(dim=(0, 1)))
    to_frame = -_cosine(z, z.mean(dim=1, keepdim=True))
    counts = frame_counts(to_video.mean(dim=1).double().cpu().numpy(), keep, clip.shape[1])
    return [highest(scores, count) for scores, count in zip(to_video + to_frame, counts, strict=True)]


def frame_counts(uniqueness: NDArray[np.float64], keep: int, most: int) -> list[int]:
    """Return how many tokens each frame keeps: K (1 + softmax - 1 / F), in whole numbers whose sum is F K.

    Args:
        uniqueness: Mean of each frame [F].
        keep: K.
        most: Tokens of a frame.
    """
    frames = len(uniqueness)
    raised = np.exp((uniqueness - uniqueness.max()) / _TEMPERATURE)
    quotas = keep * (1 + raised / (raised.sum() + _EPS) - 1 / frames)
    counts = [min(most, math.floor(quota)) for quota in quotas]
    by_remainder = np.argsort(np.floor(quotas) - quotas, kind="stable").tolist()
    missing = frames * keep - sum(counts)
    for frame in cycle(by_remainder):
        if not missing:
            break
        if counts[frame] < most:
            counts[frame] += 1
            missing -= 1
    return counts


def _cosine(tokens: Tensor, other: Tensor) -> Tensor:
    return cosine_similarity(tokens, torch.broadcast_to(other, tokens.shape), dim=-1)
