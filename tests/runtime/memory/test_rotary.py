"""Rotating cached keys against the rotary embedding of transformers' Qwen2."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding, apply_rotary_pos_emb

from stc_runtime.memory.rotary import shift_keys
from tests.reference.naive_kv import rotate

THETA = 1_000_000.0


def qwen2_keys(keys: np.ndarray, position: int) -> np.ndarray:
    """Rotate keys [H, tokens, d], all of them at one position, as Qwen2 does."""
    heads, tokens, width = keys.shape
    config = Qwen2Config(
        hidden_size=heads * width,
        num_attention_heads=heads,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )
    states = torch.from_numpy(keys)[None]
    ids = torch.full((1, tokens), position)
    cos, sin = Qwen2RotaryEmbedding(config)(states, ids)
    return apply_rotary_pos_emb(states, states, cos, sin)[1][0].numpy()


def random_keys(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("position", [0, 1, 17])
@pytest.mark.parametrize("delta", [1, -1, 5, 30])
def test_shift_keys_equals_qwen2_at_new_position(position: int, delta: int) -> None:
    keys = random_keys(2, 4, 64)
    shifted = shift_keys(qwen2_keys(keys, position), delta, THETA)
    if position + delta < 0:
        # Qwen2 never computes negative positions; the way back must end where it began.
        np.testing.assert_allclose(shift_keys(shifted, -delta, THETA), qwen2_keys(keys, position), atol=1e-5)
    else:
        np.testing.assert_allclose(shifted, qwen2_keys(keys, position + delta), rtol=0, atol=1e-5)


@pytest.mark.parametrize("delta", [1000, 32_767])
def test_shift_keys_far_within_the_rounding_of_qwen2_angles(delta: int) -> None:
    # Qwen2 multiplies position and frequency in float32: an angle of 32,768 is good to 2e-3.
    keys = random_keys(2, 4, 64)
    np.testing.assert_allclose(shift_keys(keys, delta, THETA), qwen2_keys(keys, delta), rtol=0, atol=1e-7 * delta * 4)
    np.testing.assert_allclose(
        shift_keys(keys, delta, THETA), rotate(keys.astype(np.float64), delta, THETA), rtol=0, atol=1e-6
    )


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-40_000, 40_000),
    st.sampled_from([2, 8, 64, 128]),
    st.sampled_from([(), (3,), (2, 3)]),
    st.sampled_from([1e4, 1e6]),
)
def test_shift_keys_there_and_back_returns_keys(delta: int, width: int, lead: tuple, theta: float) -> None:
    keys = random_keys(*lead, 5, width)
    there = shift_keys(keys, delta, theta)
    assert there.shape == keys.shape
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, rotate(keys.astype(np.float64), delta, theta), rtol=0, atol=2e-6)
    np.testing.assert_allclose(shift_keys(there, -delta, theta), keys, rtol=0, atol=2e-6)


def test_shift_keys_zero_delta_is_exact() -> None:
    keys = random_keys(2, 3, 16, dtype=np.float16)
    np.testing.assert_array_equal(shift_keys(keys, 0, THETA), keys)


def test_shift_keys_float64_stays_float64() -> None:
    keys = random_keys(3, 16, dtype=np.float64)
    np.testing.assert_allclose(shift_keys(keys, 31_000, THETA), rotate(keys, 31_000, THETA), rtol=0, atol=1e-13)


def test_shift_keys_float16_rounds_once() -> None:
    keys = random_keys(4, 3, 64, dtype=np.float16)
    exact = rotate(keys.astype(np.float64), 12_345, THETA)
    shifted = shift_keys(keys, 12_345, THETA)
    assert shifted.dtype == np.float16
    assert np.all(np.abs(shifted - exact) <= 0.5 * np.spacing(np.abs(exact).astype(np.float16)) + 1e-6)


def test_shift_keys_largest_float16_stays_finite() -> None:
    keys = np.full((1, 4), 65504.0, np.float16)
    assert np.isfinite(shift_keys(keys, 5, 10_000.0)).all()
