"""The pruning methods in numpy, written from their descriptions; stateful over the frames of one stream.

Nothing here is shared with the graphs: sorting is ``numpy.argsort``, state is a list or a deque, numbers are float64.
``step(tokens, keep)`` takes the [M, D] tokens of the next frame and returns the kept indices in ascending order.
``scores`` of the last frame stay readable (low is kept), so that a test can see how far apart they were.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction

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


class Even:
    """``stride``: the token that holds the middle of each of K equal stretches of 0..M."""

    def __init__(self) -> None:
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        stretch = Fraction(len(tokens), keep)
        return np.array([math.floor((j + Fraction(1, 2)) * stretch) for j in range(keep)])


class VidCom2:
    """``vidcom2``: section 3 of arXiv 2505.14454 on the clip of the last W + 1 frames, without its frame budgets.

    u(z) = -cos(z, mean of all tokens of the clip) - cos(z, mean of the frame's tokens), the highest are kept.
    """

    def __init__(self, window: int) -> None:
        self.clip: deque[Array] = deque(maxlen=window + 1)
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        z = np.asarray(tokens, dtype=np.float64)
        self.clip.append(z)
        unique = -cosine(z, np.concatenate(list(self.clip)).mean(axis=0)) - cosine(z, z.mean(axis=0))
        self.scores = -unique
        return lowest(self.scores, keep)


class Cast:
    """``vcast``: the score ("hybrid") of ``_v_cast_compress_frames`` in xinyouu/V-CAST for one frame, K given.

    1 - cos(z, the frame's mean scaled to length 1) + the norm of z, scaled to 0..1 within the frame; highest are kept.
    """

    def __init__(self) -> None:
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        z = np.asarray(tokens, dtype=np.float64)
        norms = np.linalg.norm(z, axis=1)
        self.scores = -(1 - cosine(z, unit(z.mean(axis=0))) + (norms - norms.min()) / (np.ptp(norms) + 1e-6))
        return lowest(self.scores, keep)


class Evs:
    """``evs``: ``compute_retention_mask`` of vLLM (``vllm/multimodal/evs.py``) with one frame per call and K given.

    The dissimilarity 1 - cos(token, token at the same place one frame earlier), 255 in the first frame; the highest
    are kept, in stable order. DTD of arXiv 2504.17343 drops by a threshold of the same cosine.
    """

    def __init__(self) -> None:
        self.previous: Array | None = None
        self.scores = np.zeros(0)

    def step(self, tokens: Array, keep: int) -> NDArray[np.int64]:
        z = np.asarray(tokens, dtype=np.float64)
        self.scores = np.full(len(z), -255.0)
        if self.previous is not None:
            self.scores = -(1 - (unit(z) * unit(self.previous)).sum(axis=1))
        self.previous = z
        return lowest(self.scores, keep)


def visionzip(tokens: Array, attention: Array, keys: Array, keep: int) -> tuple[Array, NDArray[np.int64]]:
    """``visionzip``: arXiv 2412.04467 and dvlab-research/VisionZip on one frame, kept tokens and their indices.

    5 of 32 kept tokens are contextual (10 of 64): each s-th of those that are not dominant, plus the mean of the tokens
    that have a more similar key with it than with any other of these.
    """
    contextual = math.floor(Fraction(5 * keep, 32) + Fraction(1, 2))
    dominant = lowest(-attention, keep - contextual).tolist()
    rest = [place for place in range(len(tokens)) if place not in dominant]
    targets = [rest[number * (len(rest) // contextual)] for number in range(contextual)]
    groups: dict[int, list[Array]] = {target: [] for target in targets}
    for place in rest:
        if targets and place not in targets:
            likeness = [float(unit(keys[place]) @ unit(keys[target])) for target in targets]
            groups[targets[likeness.index(max(likeness))]].append(tokens[place])
    kept = np.array(sorted([*dominant, *targets]), dtype=np.int64)
    rows = [tokens[place] + (np.mean(groups[place], axis=0) if groups.get(place) else 0) for place in kept]
    return np.array(rows), kept


#: ``REFERENCES[method](window, alpha)`` starts a stream; ``stc_dual_anchor`` uses both, ``vidcom2`` the window.
REFERENCES = {
    "none": lambda window, alpha: KeepAll(),
    "random": lambda window, alpha: Chance(),
    "stc_dual_anchor": DualAnchor,
    "stc_gaussian": lambda window, alpha: Gaussian(),
    "stride": lambda window, alpha: Even(),
    "vidcom2": lambda window, alpha: VidCom2(window),
    "vcast": lambda window, alpha: Cast(),
    "evs": lambda window, alpha: Evs(),
}
