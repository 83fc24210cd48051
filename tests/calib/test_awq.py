"""Scales of AWQ against the formula of the paper, written with plain loops, and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_calib.awq import GRID, choose_scales
from stc_calib.schemes import SCHEMES, Scheme

INT4, INT4_128 = (SCHEMES["ort"]["llm"][name] for name in ("int4", "int4-128"))
SMALL = Scheme("int4", "dequantize", 4, 4, 21)


def rounded_by_hand(weights: np.ndarray, block: int) -> np.ndarray:
    """Round to the nearest multiple of a seventh of the largest of each block, in double precision."""
    out = np.zeros_like(weights, np.float64)
    for row in range(weights.shape[0]):
        for first in range(0, weights.shape[1], block):
            part = weights[row, first : first + block]
            step = max(abs(part)) / 7 or 1.0
            out[row, first : first + block] = [step * round(w / step) for w in part]
    return out


def awq_by_hand(inputs: np.ndarray, weights: np.ndarray, block: int) -> list[tuple[float, float, np.ndarray]]:
    """Return alpha, relative error of the output and scales for each value of the grid (paper, section 3.2)."""
    inputs, weights = inputs.astype(np.float64), weights.astype(np.float64)
    exact = inputs @ weights.T
    rows = []
    for step in range(20):
        alpha = step / 20
        scales = np.array([max(np.mean(abs(inputs[:, c])) ** alpha, 1e-4) for c in range(inputs.shape[1])])
        scales /= (scales.max() * scales.min()) ** 0.5
        found = (inputs / scales) @ rounded_by_hand(weights * scales, block).T
        rows.append((alpha, np.linalg.norm(found - exact) / np.linalg.norm(exact), scales))
    return rows


def layer(seed: int, inputs: int, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs [24, in], whose channels have very different sizes, and weights [10, in]."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.normal(0, spread, inputs))
    return (rng.standard_normal((24, inputs)) * sizes).astype(np.float32), rng.standard_normal(
        (10, inputs), dtype=np.float32
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scheme", [SMALL, INT4, INT4_128], ids=lambda scheme: f"block {scheme.block}")
def test_the_formula_gives_the_same_errors_and_scales(seed: int, scheme: Scheme) -> None:
    inputs, weights = layer(seed, 128)
    rows = awq_by_hand(inputs, weights, scheme.block or 0)
    found = choose_scales(inputs, weights, scheme, "float32")
    best = min(rows, key=lambda row: row[1])
    assert found.error == pytest.approx(best[1], rel=1e-4)
    assert found.nearest_error == pytest.approx(rows[0][1], rel=1e-4)
    assert (found.alpha, found.alpha > 0) == (best[0], True)
    np.testing.assert_allclose(found.values, best[2], rtol=1e-5)
    assert len(rows) == GRID


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0, 4.0]))
def test_never_worse_than_nearest_where_it_was_chosen(seed: int, spread: float) -> None:
    inputs, weights = layer(seed, 64, spread)
    found = choose_scales(inputs, weights, INT4, "float16")
    assert 0 < found.error <= found.nearest_error
    assert np.isfinite(found.values).all()
    assert found.values.min() > 0


def test_one_large_channel_is_saved() -> None:
    """Block [7, 0.5, 0.5, 0.5]: a step is 1, and 0.5 becomes 0. Inputs of channel 1 are 100 times the others."""
    inputs = np.array([[1, 100, 1, 1], [1, -100, -1, 1]], np.float32)
    weights = np.array([[7, 0.5, 0.5, 0.5]], np.float32)
    found = choose_scales(inputs, weights, SMALL, "float32")
    assert found.nearest_error == pytest.approx(np.hypot(51, 50) / np.hypot(58, 43))
    assert found.error < 0.1 * found.nearest_error
    assert np.argmax(found.values) == 1


def test_inputs_of_one_size_need_no_scales() -> None:
    inputs = np.where(np.random.default_rng(0).random((16, 32)) < 0.5, -1, 1).astype(np.float32)
    found = choose_scales(inputs, layer(1, 32)[1], INT4, "float32")
    assert found.alpha == 0
    assert found.error == found.nearest_error
    np.testing.assert_array_equal(found.values, 1)


def test_channel_that_is_never_used_and_layer_of_zeros_give_finite_scales() -> None:
    inputs, weights = layer(0, 32)
    inputs[:, 3] = 0
    assert np.isfinite(choose_scales(inputs, weights, INT4, "float32").values).all()
    zeros = choose_scales(inputs, np.zeros_like(weights), INT4, "float32")
    assert (zeros.error, zeros.alpha) == (0, 0)
