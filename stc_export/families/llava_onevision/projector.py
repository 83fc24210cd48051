"""The front of every ``pruner`` graph: two-layer projector with bilinear pooling in between, and a pruning method.

transformers projects all T tokens with both layers and pools then. Pooling is a fixed weighted mean whose weights sum
to one and the second layer is affine, so pooling after the activation and projecting the M pooled tokens gives the same
result and saves T / M of the second layer. (Pooling before the activation would not be the same.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stc_export.families.llava_onevision.blocks import ACTIVATIONS, Linear, gelu
from stc_export.families.llava_onevision.config import LlavaConfig


def pooling_weights(grid: int) -> NDArray[np.float32]:
    """Weights [ceil(grid / 2), grid] of bilinear interpolation along one axis, half-pixel centres, no antialiasing.

    The same as ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` as transformers calls it.
    """
    pooled = (grid + 1) // 2
    centre = np.maximum((np.arange(pooled) + 0.5) * (grid / pooled) - 0.5, 0.0)
    low = np.minimum(centre.astype(np.int64), grid - 1)
    high = np.minimum(low + 1, grid - 1)
    weights = np.zeros((pooled, grid), np.float64)
    np.add.at(weights, (np.arange(pooled), low), 1.0 - (centre - low))
    np.add.at(weights, (np.arange(pooled), high), centre - low)
    return weights.astype(np.float32)


class PrunerGraph(nn.Module):
    """``pruner``: features -> kept visual tokens."""

    def __init__(self, config: LlavaConfig, dtype: Any, method: nn.Module, inputs: Sequence[str]) -> None:
        """Create the graph's module without initialising it; ``inputs`` are the names of those of the method."""
        super().__init__()
        vision, text = config.dims.vision, config.dims.text
        self.grid, self.pooled = vision.grid, vision.pooled_grid
        self.linear_1 = Linear(vision.width, text.width, bias=config.projector_bias, dtype=dtype)
        self.linear_2 = Linear(text.width, text.width, bias=config.projector_bias, dtype=dtype)
        self.pooling = nn.Parameter(torch.empty(self.pooled, self.grid, dtype=dtype), requires_grad=False)
        self.approximate = ACTIVATIONS[config.projector_act]
        self.method = method
        pooled = {"attention": self.pooled_scores, "keys": self.pooled_keys}
        self.prepared: list[Callable[[Any], Any]] = [pooled.get(name, _as_it_is) for name in inputs]

    def visual_tokens(self, features: Any) -> Any:
        """Features [T, C] -> visual tokens [M, D] in raster order."""
        hidden = gelu(self.linear_1(features), self.approximate)
        return self.linear_2(self.pool(hidden, self.pooling))

    def pool(self, x: Any, weights: Any) -> Any:
        """Pool the grid of [T, W] along both axes with weights [m, g]: [M, W]."""
        width = x.shape[-1]
        rows = torch.matmul(weights, x.reshape(self.grid, self.grid * width))
        pooled = torch.matmul(weights, rows.reshape(self.pooled, self.grid, width))
        return pooled.reshape(self.pooled * self.pooled, width)

    def pooled_keys(self, keys: Any) -> Any:
        """Keys of the ViT's tokens [heads, T, d] -> of the visual tokens, the mean over heads, float32 [M, d]."""
        return self.pool(keys.float().mean(0), self.pooling.float())

    def pooled_scores(self, scores: Any) -> Any:
        """Scores of the ViT's tokens, float32 [T] -> those of the visual tokens, [M]: pooled with the same weights."""
        weights = self.pooling.float()
        return torch.matmul(torch.matmul(weights, scores.reshape(self.grid, self.grid)), weights.T).flatten()

    def forward(self, features: Any, inputs: list[Any]) -> Any:
        """Project, pool and prune; ``inputs`` are those of the method (see :mod:`stc_export.pruners`)."""
        prepared = (prepare(value) for prepare, value in zip(self.prepared, inputs, strict=True))
        return self.method(self.visual_tokens(features), *prepared)


def _as_it_is(value: Any) -> Any:
    return value
