"""The metrics of the cacher's selection in numpy, from their definitions: the lowest rows are recomputed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def similarity(metric: str, now: Array, before: Array) -> Array:
    """[N] in float64 for rows [N, W]: cosine, dot product, or the negative distance in the norm of order 1 or 2."""
    now, before = np.asarray(now, np.float64), np.asarray(before, np.float64)
    products = np.array([np.dot(a, b) for a, b in zip(now, before, strict=True)])
    lengths = np.linalg.norm(now, axis=1) * np.linalg.norm(before, axis=1)
    return {
        "cosine": products / np.where(lengths, lengths, 1.0),
        "l1": -np.linalg.norm(now - before, ord=1, axis=1),
        "l2": -np.linalg.norm(now - before, ord=2, axis=1),
        "dot": products,
    }[metric]
