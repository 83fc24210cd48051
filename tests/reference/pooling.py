"""The 2x2 pooling of LLaVA-OneVision in numpy: bilinear interpolation from a g x g grid to ceil(g / 2) squared.

Pixel centres are at half-integers (``align_corners=False``) and there is no antialiasing: output ``i`` of ``n`` reads
the input of size ``g`` at ``(i + 0.5) g / n - 0.5``, clamped to 0, between its two neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def bilinear_matrix(size_in: int, size_out: int) -> Array:
    """Weights [size_out, size_in] of linear interpolation along one axis; each row sums to 1."""
    weights = np.zeros((size_out, size_in))
    for i in range(size_out):
        position = max((i + 0.5) * size_in / size_out - 0.5, 0.0)
        low = int(np.floor(position))
        high = min(low + 1, size_in - 1)
        weights[i, low] += 1.0 - (position - low)
        weights[i, high] += position - low
    return weights


def pool(features: Array) -> Array:
    """Pool the [T, C] tokens of a square grid in raster order; returns [M, C] in raster order."""
    grid = round(len(features) ** 0.5)
    weights = bilinear_matrix(grid, (grid + 1) // 2)
    image = np.asarray(features, dtype=np.float64).reshape(grid, grid, -1)
    return np.einsum("iy,jx,yxc->ijc", weights, weights, image).reshape(-1, image.shape[-1])
