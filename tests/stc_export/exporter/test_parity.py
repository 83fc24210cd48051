"""Comparing a graph's outputs with what was expected, on numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stc_export.exporter.parity import RANKING_TOLERANCES, TOLERANCES, ParityCase, compare
from stc_export.spec.manifest import GraphParity, OutputParity, Precision


def report(
    found: dict[str, Any], expected: dict[str, Any], precision: Precision = "fp32", rankings: tuple[str, ...] = ()
) -> GraphParity:
    arrays = {name: np.array(value) for name, value in expected.items()}
    case = ParityCase("graphs/x.onnx", "full", "module", {}, arrays, frozenset(rankings))
    return compare(case, {name: np.array(value) for name, value in found.items()}, precision, "all 3")


def row(found: Any, expected: Any, precision: Precision = "fp32", *, ranking: bool = False) -> OutputParity:
    (only,) = report({"y": found}, {"y": expected}, precision, ("y",) if ranking else ()).outputs
    return only


def test_difference_is_relative_to_the_largest_value_of_the_reference() -> None:
    found = row([1.0, -3.9, 0.5], [1.0, -4.0, 0.0])
    assert (found.max_abs, found.max_rel, found.passed) == (0.5, 0.125, False)
    assert found.cosine == pytest.approx((1 + 15.6) / math.sqrt((1 + 3.9**2 + 0.25) * 17))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_difference_at_the_tolerance_passes_and_above_does_not(precision: Precision) -> None:
    tolerance = TOLERANCES[precision]
    below, above = (
        row([1.0, tolerance * 0.99], [1.0, 0.0], precision),
        row([1.0, tolerance * 1.01], [1.0, 0.0], precision),
    )
    assert (below.passed, above.passed) == (True, False)
    assert below.tolerance == tolerance


def test_half_precision_output_is_compared_in_double() -> None:
    found = row(np.full(4, 60000, np.float16), np.full(4, 60000.0, np.float32), "fp16")
    assert (found.max_abs, found.cosine) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_not_finite_fails_with_numbers_that_a_manifest_can_hold(bad: float) -> None:
    for found in (row([bad, 1.0], [1.0, 1.0]), row([1.0, 1.0], [bad, 1.0]), row([bad], [bad])):
        assert not found.passed
        assert (found.max_abs, found.max_rel, found.cosine) == (1e30, 1e30, 0.0)


def test_other_number_of_elements_fails() -> None:
    assert not row([1.0, 1.0], [1.0]).passed


def test_reference_of_zeros_is_compared_absolutely() -> None:
    assert row([0.0], [0.0]).passed
    assert row([1e-3], [0.0]).max_rel == 1e-3
    assert row([0.0], [0.0]).cosine == 1.0


def test_empty_output_passes() -> None:
    assert row(np.zeros(0), np.zeros(0)).passed


def test_ranking_is_compared_as_a_set() -> None:
    assert row([3, 1, 2], [1, 2, 3], ranking=True) == OutputParity(
        "y", 0.0, 0.0, 1.0, RANKING_TOLERANCES["fp32"], passed=True
    )
    found = row([1, 2, 9], [1, 2, 3], ranking=True)
    assert (found.max_abs, found.max_rel, found.passed) == (1.0, pytest.approx(1 / 3), False)


@pytest.mark.parametrize(
    ("found", "passed"), [([5.0, 1.0, -8.0], True), ([5.0, 1.0, -7.0], False), ([5.0, 1.0], False)]
)
def test_numbers_in_the_order_of_a_ranking_may_change_places_but_not_values(found: list[float], passed: bool) -> None:
    case = ParityCase("g", "c", "module", {}, {"entry": np.array([1.0, 5.0, -8.0])}, frozenset(), frozenset({"entry"}))
    (only,) = compare(case, {"entry": np.array(found)}, "fp32", "all").outputs
    assert only.passed is passed
    assert row(found, [1.0, 5.0, -8.0]).passed is False


@pytest.mark.parametrize(("missing", "passed"), [(2, True), (3, False)])
def test_ranking_of_a_hundred_may_miss_two_in_fp32(missing: int, passed: bool) -> None:
    found = [*range(100 - missing), *range(200, 200 + missing)]
    assert row(found, list(range(100)), ranking=True).passed is passed


def test_outputs_of_many_layers_become_one_row_with_the_worst() -> None:
    expected = {"features": [1.0], "key_0_out": [1.0], "key_1_out": [10.0], "key_10_out": [1.0], "value_0_out": [1.0]}
    found = {"features": [1.0], "key_0_out": [1.25], "key_1_out": [15.0], "key_10_out": [1.0], "value_0_out": [1.0]}
    rows = {one.output: one for one in report(found, expected).outputs}
    assert set(rows) == {"features", "key_*_out", "value_*_out"}
    assert (rows["key_*_out"].max_abs, rows["key_*_out"].max_rel) == (5.0, 0.5)
    assert (rows["key_*_out"].passed, rows["value_*_out"].passed) == (False, True)


def test_layer_that_is_not_finite_is_the_worst_wherever_it_stands() -> None:
    expected = {f"key_{i}_out": [1.0] for i in range(3)}
    for place in range(3):
        found = {name: [float("nan")] if i == place else [1.5] for i, name in enumerate(expected)}
        (only,) = report(found, expected).outputs
        assert only.max_rel == 1e30


def test_report_names_graph_case_and_layers_and_passes_if_all_rows_do() -> None:
    found = report({"a": [1.0], "b": [2.0]}, {"a": [1.0], "b": [1.0]})
    assert (found.graph, found.case, found.reference, found.layers) == ("graphs/x.onnx", "full", "module", "all 3")
    assert [one.passed for one in found.outputs] == [True, False]
    assert not found.passed
    assert report({"a": [1.0]}, {"a": [1.0]}).passed


def test_output_that_is_not_expected_is_not_compared() -> None:
    assert [one.output for one in report({"a": [1.0], "b": [float("nan")]}, {"a": [1.0]}).outputs] == ["a"]
