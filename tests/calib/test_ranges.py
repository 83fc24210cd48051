"""Scales against a search over all of them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_calib.ranges import Range, Ranges
from stc_export.spec.errors import UsageError


def error(values: np.ndarray, end: float, most: int = 127) -> float:
    """Round with numpy alone and return the sum of squared errors."""
    step = end / most
    rounded = np.clip(np.rint(values / step), -most, most) * step
    return float(np.square(values - rounded).sum())


def seen(*passes: np.ndarray) -> Range:
    found = Range()
    for values in passes:
        found.add(values.astype(np.float32))
    return found


@pytest.mark.parametrize("draw", ["normal", "laplace", "standard_cauchy", "uniform"])
def test_clip_is_about_as_good_as_the_best_of_a_thousand(draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=20_000)
    found = seen(values[:5000], values[5000:]).clip(127)
    largest = float(np.abs(values).max())
    best = min(error(values, largest * share / 1000) for share in range(1, 1001))
    assert found <= largest * (1 + 1e-6)
    assert error(values, found) <= 1.05 * best


def test_outlier_is_cut_off_where_that_costs_less() -> None:
    """A value 20 times the others costs 20^2 or so once if it is cut, and a coarser step for all if it is not."""
    values = np.append(np.random.default_rng(0).uniform(-1, 1, 1_000_000), 5.0)
    assert seen(values).clip(127) < 4.0
    few = np.append(np.random.default_rng(0).uniform(-1, 1, 100), 5.0)
    assert seen(few).clip(127) == pytest.approx(5.0)


def test_zeros_alone_have_some_scale() -> None:
    found = seen(np.zeros(4))
    assert (found.clip(127), found.largest) == (1.0, 0.0)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=40), st.integers(0, 40))
def test_order_of_passes_does_not_matter(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    whole, parts = seen(array), seen(array[cut:], array[:cut])
    assert (whole.clip(127), whole.largest) == (parts.clip(127), parts.largest)
    assert 0 < whole.clip(127) <= max(whole.largest, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_value_that_is_no_number_is_refused_with_the_name_of_the_layer(bad: float) -> None:
    ranges = Ranges()
    with pytest.raises(UsageError) as caught:
        ranges.add("layers.3.fc1.weight", np.array([1.0, bad, bad], np.float32))
    assert caught.value.problem == (
        "The input of layers.3.fc1.weight holds NaN or infinity in 2 of 3 values, expected numbers."
    )
