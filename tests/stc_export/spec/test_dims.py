"""Sizes derived from a config, against figures worked out by hand."""

from __future__ import annotations

import pytest

from stc_export.spec.dims import VisionDims


@pytest.mark.parametrize(
    ("image", "patch", "grid", "pooled"),
    [
        (384, 14, 27, 14),  # SigLIP so400m-384: 729 tokens, 196 visual tokens; 6 pixels at the border are not used
        (224, 16, 14, 7),
        (70, 14, 5, 3),
        (28, 14, 2, 1),
        (14, 14, 1, 1),
        (27, 14, 1, 1),
    ],
)
def test_vision_dims_count_whole_patches_and_pool_two_by_two(image: int, patch: int, grid: int, pooled: int) -> None:
    dims = VisionDims(image, patch, width=1152, mlp_width=4304, heads=16, layers=26)
    assert (dims.grid, dims.tokens) == (grid, grid * grid)
    assert (dims.pooled_grid, dims.visual_tokens) == (pooled, pooled * pooled)
    assert dims.head_dim == 72
