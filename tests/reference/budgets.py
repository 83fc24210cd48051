"""Frame budgets in numpy, written from their descriptions; stateful over the frames of one stream.

Nothing here is shared with the runtime: whole frames are kept, cosines are taken token by token, totals are sums of
fractions. ``count(tokens)`` takes the tokens [M, D] of the next frame and returns K. ``due`` is the sum of what all
frames so far were due, where a budget has shares.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tests.reference.pruners import lowest

Array = NDArray[np.float64]

#: 0.3 has no exact binary fraction: 0.3 of 10 is 3.
ALMOST = Fraction(1, 10**9)


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors; 0 if one of them is zero."""
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


class Fixed:
    """``fixed``: the same count in every frame."""

    def __init__(self, keep: float) -> None:
        self.keep = keep

    def count(self, tokens: Array) -> int:
        return max(1, math.floor(len(tokens) * Fraction(self.keep) + ALMOST))


class VidCom2:
    """``vidcom2``: section 3 of arXiv 2505.14454 for the clip that ends with the frame: its own budget is taken.

    u_t = mean over the tokens of -cos(z, g_v); sigma = softmax((u - max u) / 0.01); r_t = R (1 + sigma_t - 1 / F),
    between one token and all. The counts of a stream sum to the whole part of the sum of r_t M.
    """

    def __init__(self, keep: float, window: int) -> None:
        self.keep = keep
        self.clip: deque[Array] = deque(maxlen=window + 1)
        self.due = Fraction(0)
        self.given = 0

    def count(self, tokens: Array) -> int:
        self.clip.append(np.asarray(tokens, np.float64))
        clip = np.stack(self.clip)
        centre = clip.mean(axis=(0, 1))
        unique = np.array([np.mean([-cosine(token, centre) for token in frame]) for frame in clip])
        scaled = np.exp((unique - unique.max()) / 0.01)
        share = self.keep * (1 + scaled[-1] / scaled.sum() - 1 / len(clip))
        self.due += Fraction(float(min(max(share * len(tokens), 1.0), float(len(tokens)))))
        count = math.floor(self.due + ALMOST) - self.given
        self.given += count
        return count


class Dtd:
    """``dtd``: tokens whose cosine with the previous frame at their place is above a threshold are dropped."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.previous: Array | None = None

    def kept(self, tokens: Array) -> list[int]:
        now, before = np.asarray(tokens, np.float64), self.previous
        self.previous = now
        if before is None:
            return list(range(len(now)))
        return [place for place, token in enumerate(now) if not cosine(token, before[place]) > self.threshold]

    def count(self, tokens: Array) -> int:
        return len(self.kept(tokens))


class Evs:
    """``evs``: ``compute_retention_mask`` of vLLM for the clip that ends with the frame.

    One list of (dissimilarity, frame, place), the best max(M, keep F M) of it; those of this frame are counted. The
    stream keeps no more than that of a video of its length.
    """

    def __init__(self, keep: float, window: int) -> None:
        self.keep = keep
        self.clip: deque[list[float]] = deque(maxlen=window + 1)
        self.previous: Array | None = None
        self.frames = 0
        self.given = 0

    def total(self, frames: int, tokens: int) -> int:
        """What EVS keeps of a video."""
        return max(tokens, math.floor(Fraction(self.keep) * frames * tokens + ALMOST))

    def count(self, tokens: Array) -> int:
        now, before = np.asarray(tokens, np.float64), self.previous
        self.previous = now
        self.frames += 1
        self.clip.append(
            [255.0] * len(now) if before is None else [1 - cosine(a, b) for a, b in zip(now, before, strict=True)]
        )
        ranked = sorted(
            (-score, frame, place) for frame, scores in enumerate(self.clip) for place, score in enumerate(scores)
        )
        best = ranked[: self.total(len(self.clip), len(now))]
        mine = sum(frame == len(self.clip) - 1 for _, frame, _ in best)
        count = min(mine, self.total(self.frames, len(now)) - self.given)
        self.given += count
        return count


class DyCoke:
    """``dycoke``: stage one of arXiv 2411.15024, windows of four frames (0, 1), (2, 3), then (0, 2).

    The first frame of a window is whole. Of the second of each pair the least similar tokens stay, such that a share
    ``keep`` of all tokens does: (4 keep - 1) / 3 of each.
    """

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.window: list[Array] = []
        self.due = Fraction(0)
        self.given = 0

    def count(self, tokens: Array) -> int:
        return len(self.kept(tokens))

    def kept(self, tokens: Array) -> list[int]:
        now = np.asarray(tokens, np.float64)
        if len(self.window) % 4 == 0:
            self.window = [now]
            return list(range(len(now)))
        other = self.window[{1: 0, 2: 0, 3: 2}[len(self.window)]]
        self.window.append(now)
        self.due += (4 * Fraction(self.keep) - 1) / 3 * len(now)
        count = math.floor(self.due + ALMOST) - self.given
        self.given += count
        similar = np.array([cosine(a, b) for a, b in zip(now, other, strict=True)])
        return lowest(similar, count).tolist()


#: ``BUDGETS[budget](keep, window, threshold)`` starts a stream.
BUDGETS: dict[str, Callable[[float, int, float], Fixed | VidCom2 | Dtd | Evs | DyCoke]] = {
    "fixed": lambda keep, window, threshold: Fixed(keep),
    "vidcom2": lambda keep, window, threshold: VidCom2(keep, window),
    "dtd": lambda keep, window, threshold: Dtd(threshold),
    "evs": lambda keep, window, threshold: Evs(keep, window),
    "dycoke": lambda keep, window, threshold: DyCoke(keep),
}
