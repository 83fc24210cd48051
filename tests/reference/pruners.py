"""The pruning methods in numpy, written from their descriptions; stateful over the frames of one stream.

Nothing here is shared with the graphs: sorting is ``numpy.argsort``, state is a list or a deque, numbers are float64.
``step(tokens, keep)`` takes the [M, D] tokens of the next frame and returns the kept indices in ascending order.
``scores`` of the last frame stay readable (low is kept), so that a test can see how far apart they were.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lowest(scores: Array, keep: int) -> NDArray[np.int64]:
    """Indices of the ``keep`` lowest scores, ascending; of equal scores the lower index is kept."""
    return np.sort(np.argsort(scores, kind="stable")[:keep])


class KeepAll:
    """``none``: every token."""

    def __init__(self) -> None:
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        del keep
        return np.arange(len(tokens))


class Chance:
    """``random``: K tokens by lot. One uniform float32 per token and frame, from PCG64 started with a seed."""

    def __init__(self, seed: int = 0) -> None:
        self.draws = np.random.Generator(np.random.PCG64(seed))
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        self.scores = self.draws.random(len(tokens), dtype=np.float32).astype(np.float64)
        return lowest(self.scores, keep)


class DualAnchor:
    """``stc_dual_anchor``: section 3.4 of arXiv 2512.00891, on all channels.

    S(z) = alpha (1 - cos(z, a_t)) + (1 - alpha) (1 - cos(z, a_s)), the highest are kept. The paper does not define the
    first frame; here its temporal term is the same for all tokens.
    """

    def __init__(self, window: int, alpha: float) -> None:
        self.history: deque[Array] = deque(maxlen=window)
        self.alpha = alpha
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        z = np.asarray(tokens, dtype=np.float64)
        spatial = z.mean(axis=0)
        novelty = (1 - self.alpha) * (1 - cosine(z, spatial))
        if self.history:
            temporal = np.mean(self.history, axis=0)
            novelty = novelty + self.alpha * (1 - cosine(z, temporal))
        self.scores = -novelty
        self.history.append(spatial)
        return lowest(self.scores, keep)


def cosine(rows: Array, vector: Array) -> Array:
    """Cosine of each row with a vector."""
    return (rows * vector).sum(axis=1) / np.sqrt((rows**2).sum(axis=1) * (vector**2).sum())


class Gaussian:
    """``stc_gaussian``: ``STC_Pruner.compress`` of lern-to-write/STC (model/prune.py) with one frame per call.

    Published quirks that are kept: the channels of an entry are in the frame's own order of variance, the memory
    contains the current frame, it is never cut, and the frame's centre is not normalised again.
    """

    def __init__(self) -> None:
        self.past_means: list[Array] = []
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        x = np.asarray(tokens, dtype=np.float64)
        order = np.argsort(x.var(axis=0), kind="stable")
        x = x[:, order[: int(x.shape[1] * 0.5)]]
        self.past_means.append(x.mean(axis=0))
        memory = unit(np.mean(self.past_means, axis=0))
        x = unit(x)
        self.scores = kernels(x, memory) + kernels(x, x.mean(axis=0))
        return lowest(self.scores, keep)


def unit(x: Array) -> Array:
    """Rows (or one vector) divided by their length; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def kernels(rows: Array, centre: Array) -> Array:
    """Sum of five Gaussian kernels of the distance of each row to a centre."""
    squared = ((rows - centre) ** 2).sum(axis=1)
    return sum((np.exp(-squared / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)), np.zeros(len(rows)))


#: ``REFERENCES[method](window, alpha)`` starts a stream; only ``stc_dual_anchor`` uses the two.
REFERENCES = {
    "none": lambda window, alpha: KeepAll(),
    "random": lambda window, alpha: Chance(),
    "stc_dual_anchor": DualAnchor,
    "stc_gaussian": lambda window, alpha: Gaussian(),
}
