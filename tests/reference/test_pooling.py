from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionModel

from tests.reference.pooling import bilinear_matrix, pool


def transformers_pooling(features, grid):
    model = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=14 * grid, patch_size=14)))
    return LlavaOnevisionModel.apply_pooling(model, torch.from_numpy(features)[None])[0].numpy()


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 7, 8, 27])
def test_pool_any_grid_equals_transformers(grid):
    features = np.random.default_rng(grid).normal(size=(grid * grid, 5))
    np.testing.assert_allclose(pool(features), transformers_pooling(features, grid), rtol=0, atol=1e-12)


def test_pool_27_grid_gives_196_tokens():
    assert pool(np.ones((729, 2))).shape == (196, 2)


@pytest.mark.parametrize("grid", [1, 2, 3, 27])
def test_bilinear_matrix_rows_sum_to_one(grid):
    np.testing.assert_allclose(bilinear_matrix(grid, (grid + 1) // 2).sum(axis=1), 1.0, rtol=0, atol=1e-15)


def test_pool_commutes_with_an_affine_layer():
    rng = np.random.default_rng(0)
    features, weight, bias = rng.normal(size=(729, 6)), rng.normal(size=(6, 4)), rng.normal(size=4)
    np.testing.assert_allclose(pool(features @ weight + bias), pool(features) @ weight + bias, rtol=0, atol=1e-12)
