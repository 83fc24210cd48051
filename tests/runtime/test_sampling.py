"""Sampling against the probabilities of a brute-force nucleus."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stc_export.spec.errors import ParityError, UsageError
from stc_runtime.sampling import TopP, greedy


def nucleus(logits: np.ndarray, top_p: float, temperature: float) -> dict[int, float]:
    """Probability of each token that can be drawn, one token at a time from the likeliest on."""
    weights = [math.exp((float(x) - float(max(logits))) / temperature) for x in logits]
    total = math.fsum(weights)
    kept: dict[int, float] = {}
    for token in sorted(range(len(logits)), key=lambda i: (-weights[i], i)):
        if kept and math.fsum(kept.values()) >= top_p * total:
            break
        kept[token] = weights[token]
    share = math.fsum(kept.values())
    return {token: weight / share for token, weight in kept.items()}


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_greedy_any_logits_first_of_the_highest(values: list[int]) -> None:
    assert greedy(np.array(values, np.float32)) == values.index(max(values))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("choose", [greedy, TopP(0.9, 1.0, 0)])
def test_choose_not_finite_refused(choose: object, bad: float) -> None:
    with pytest.raises(ParityError, match="logits are not finite"):
        choose(np.array([0.0, bad, 1.0], np.float32))


@pytest.mark.parametrize(("top_p", "temperature"), [(0.5, 1.0), (0.9, 0.7), (1.0, 1.0), (0.95, 3.0), (1e-9, 1.0)])
def test_top_p_many_draws_follow_brute_force_nucleus(top_p: float, temperature: float) -> None:
    logits = (2 * np.random.default_rng(5).standard_normal(12)).astype(np.float32)
    expected = nucleus(logits, top_p, temperature)
    sampler, draws = TopP(top_p, temperature, 11), 8000
    counts = np.bincount([sampler(logits) for _ in range(draws)], minlength=12)
    assert {int(token) for token in np.flatnonzero(counts)} <= set(expected)
    for token, probability in expected.items():
        sigma = math.sqrt(draws * probability * (1 - probability))
        assert abs(counts[token] - draws * probability) <= 5 * sigma + 1e-9


@given(
    st.lists(st.integers(-20, 20).map(lambda i: i / 4), min_size=1, max_size=30),
    st.floats(0.01, 0.999),
    st.floats(0.2, 5),
    st.integers(0, 3),
)
def test_top_p_any_logits_draws_inside_nucleus(
    values: list[float], top_p: float, temperature: float, seed: int
) -> None:
    logits = np.array(values, np.float16)
    allowed = nucleus(logits, min(1.0, top_p + 1e-9), temperature)  # a share hit exactly may round either way
    assert TopP(top_p, temperature, seed)(logits) in allowed


@pytest.mark.parametrize(("top_p", "scale"), [(0.9, 6.0), (0.9, 0.01), (1.0, 6.0)])
def test_top_p_large_vocabulary_draws_follow_brute_force_nucleus(top_p: float, scale: float) -> None:
    logits = (scale * np.random.default_rng(1).standard_normal(5000)).astype(np.float32)
    expected = nucleus_of_sorted(logits, top_p)
    sampler, draws = TopP(top_p, 1.0, 2), 1500
    drawn = [sampler(logits) for _ in range(draws)]
    assert set(drawn) <= expected.keys()
    ranked = list(expected)
    for group in (ranked[:1], ranked[:20], ranked[1200:]):
        probability = math.fsum(expected[token] for token in group)
        sigma = math.sqrt(draws * probability * max(0.0, 1 - probability))
        assert abs(np.isin(drawn, group).sum() - draws * probability) <= 5 * sigma + 1


def nucleus_of_sorted(logits: np.ndarray, top_p: float) -> dict[int, float]:
    """Return :func:`nucleus` for many tokens at temperature 1."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    weights = np.exp(logits[order].astype(np.float64) - float(logits.max()))
    before = np.concatenate([[0.0], np.cumsum(weights)[:-1]])
    kept = before < top_p * weights.sum()
    return dict(zip(np.array(order)[kept].tolist(), (weights[kept] / weights[kept].sum()).tolist(), strict=True))


def test_top_p_same_seed_same_tokens_and_own_generator() -> None:
    logits = np.zeros(50, np.float32)
    first, second, other = TopP(1.0, 1.0, 3), TopP(1.0, 1.0, 3), TopP(1.0, 1.0, 4)
    np.random.default_rng(0).random()
    a = [first(logits) for _ in range(20)]
    other_tokens = [other(logits) for _ in range(20)]
    assert a == [second(logits) for _ in range(20)]
    assert a != other_tokens


def test_top_p_equal_logits_keeps_lower_ids() -> None:
    sampler = TopP(0.5, 1.0, 0)
    assert {sampler(np.zeros(8, np.float32)) for _ in range(300)} == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e300])
def test_top_p_extreme_temperature_draws_a_token(temperature: float) -> None:
    logits = np.array([0.0, 60000.0, -60000.0], np.float32)
    drawn = TopP(0.9, temperature, 0)(logits)
    assert drawn == 1 or temperature == 1e300


@pytest.mark.parametrize(
    ("top_p", "temperature", "seed", "named"),
    [
        (0.0, 1.0, 0, "top_p is 0,"),
        (1.5, 1.0, 0, "top_p is 1.5,"),
        (math.nan, 1.0, 0, "top_p is nan,"),
        (0.9, 0.0, 0, "temperature is 0,"),
        (0.9, -1.0, 0, "temperature is -1,"),
        (0.9, math.inf, 0, "temperature is inf,"),
        (0.9, math.nan, 0, "temperature is nan,"),
        (0.9, 1.0, -1, "seed is -1,"),
    ],
)
def test_top_p_outside_range_refused(top_p: float, temperature: float, seed: int, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        TopP(top_p, temperature, seed)
