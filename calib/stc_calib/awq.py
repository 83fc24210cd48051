"""AWQ: scales per input channel that make what rounding costs a layer's output small. numpy only.

Lin et al., "AWQ: Activation-aware Weight Quantization", MLSys 2024 (arXiv 2306.00978), section 3.2: a layer computes
``x W^T = (x / s) (W s)^T``. Weights of channels with large inputs are enlarged before they are rounded, so that they
lose less. The scales are ``s = mean|x| ** alpha``, with one alpha per layer from a grid. As in the released code, s is
divided by the root of its largest times its smallest value, which keeps what is folded in range. The clipping of
weights that the released code adds is not here, and the error is that of the layer's own output, where the released
code takes that of the whole attention or MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stc_calib.rounding import Floats, restore_weights, round_weights
from stc_calib.schemes import Scheme
from stc_export.spec.manifest import DType

#: Values of alpha that are tried: 0, 0.05, ... 0.95. With 0 all scales are 1, which is rounding to the nearest.
GRID = 20
#: No scale is smaller before it is normalised, also that of a channel whose inputs are all 0.
_LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class Scales:
    """The scales of a layer's inputs. Errors are relative: |x (W' - W)^T| / |x W^T| over all outputs.

    Attributes:
        values: float32 [in]; weights are multiplied by them, inputs divided.
        alpha: The power of the mean input that they are.
        nearest_error: Error of the output without scales.
        error: Error of the output with them.
    """

    values: Floats
    alpha: float
    nearest_error: float
    error: float


def choose_scales(inputs: Floats, weights: Floats, scheme: Scheme, dtype: DType) -> Scales:
    """Return the scales of the grid with the smallest error of the output; of equal ones the smallest alpha.

    Args:
        inputs: What the layer reads, float32 [N, in].
        weights: Its weights, or some rows of them, float32 [out, in].
        scheme: How weights are rounded.
        dtype: Type in which the scheme stores the scales of its blocks.
    """
    whole = float(np.linalg.norm(inputs @ weights.T))
    tried = list(_grid(inputs))
    errors = [_lost(inputs, weights, scales, scheme, dtype) / (whole or 1.0) for _, scales in tried]
    best = errors.index(min(errors))
    return Scales(tried[best][1], tried[best][0], errors[0], errors[best])


def _grid(inputs: Floats) -> Iterator[tuple[float, Floats]]:
    magnitudes = np.abs(inputs).mean(axis=0, dtype=np.float64)
    for step in range(GRID):
        powers = np.maximum(magnitudes ** (step / GRID), _LEAST)
        yield step / GRID, (powers / np.sqrt(powers.max() * powers.min())).astype(np.float32)


def _lost(inputs: Floats, weights: Floats, scales: Floats, scheme: Scheme, dtype: DType) -> float:
    """Return the norm of what rounding the scaled weights changes in the output."""
    restored = restore_weights(round_weights(weights * scales, scheme, dtype)) / scales
    return float(np.linalg.norm(inputs @ (restored - weights).T))
