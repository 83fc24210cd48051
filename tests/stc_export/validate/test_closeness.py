from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cosine as scipy_distance
from scipy.special import rel_entr, softmax

from stc_export.validate.closeness import cosine, divergence, relative_error
from stc_runtime.dtypes import narrowed, widened

NUMBERS = st.floats(-100, 100, width=32)
ROWS = arrays(np.float32, (3, 4), elements=NUMBERS)
LOGITS = arrays(np.float32, 6, elements=NUMBERS)


def test_cosine_is_the_mean_over_rows() -> None:
    found, dense = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    expected = np.mean([1 - scipy_distance(a, b) for a, b in zip(found, dense, strict=True)])
    assert cosine(found, dense) == pytest.approx(expected, abs=1e-6)


def test_bfloat16_counts_as_the_numbers_that_it_carries() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    found, dense = narrowed(a, np.uint16), narrowed(b, np.uint16)
    for measure in (cosine, relative_error):
        assert measure(found, dense) == measure(widened(found), widened(dense))
        assert measure(found, dense) == pytest.approx(measure(a, b), abs=0.02)


@given(ROWS, ROWS)
def test_cosine_is_between_minus_one_and_one_and_symmetric(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    assert -1.000001 <= cosine(a, b) <= 1.000001
    assert cosine(a, b) == cosine(b, a)


def test_cosine_of_a_row_of_zeros_is_zero() -> None:
    a = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    assert cosine(a, a) == 0.5


def test_cosine_of_half_precision_does_not_overflow() -> None:
    a = np.full((2, 600), 300.0, np.float16)
    assert cosine(a, a) == 1.0
    assert relative_error(-a, a) == 2.0


@pytest.mark.parametrize(
    ("found", "dense", "expected"),
    [((3.0, 4.0), (3.0, 4.0), 0.0), ((3.0, 0.0), (3.0, 4.0), 0.8), ((1.0, 0.0), (0.0, 0.0), 1.0), ((0, 0), (0, 0), 0)],
)
def test_relative_error_is_that_of_the_whole(
    found: tuple[float, float], dense: tuple[float, float], expected: float
) -> None:
    assert relative_error(np.array([found], np.float32), np.array([dense], np.float32)) == expected


@given(LOGITS, LOGITS, NUMBERS)
def test_divergence_is_that_of_scipy_and_ignores_a_constant(
    dense: NDArray[np.float32], found: NDArray[np.float32], shift: float
) -> None:
    expected = rel_entr(softmax(dense.astype(np.float64)), softmax(found.astype(np.float64))).sum()
    assert divergence(dense, found) == pytest.approx(expected, abs=2e-6)
    assert divergence(dense, found + np.float32(shift)) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert divergence(dense, dense) == 0.0


def test_divergence_is_from_the_uncompressed_one() -> None:
    sure, even = np.log(np.array([0.9, 0.1], np.float32)), np.zeros(2, np.float32)
    assert divergence(sure, even) == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2), abs=1e-6)
    assert divergence(even, sure) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5), abs=1e-6)
