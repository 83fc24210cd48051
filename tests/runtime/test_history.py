"""The pruner's history against lists of all entries."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stc_export.spec.manifest import PrunerEntry
from stc_runtime.history import PrunerHistory

WIDTH = 3
entries = st.lists(
    st.lists(st.floats(-100, 100, width=32), min_size=WIDTH, max_size=WIDTH).map(lambda v: np.array(v, np.float32)),
    max_size=20,
)


def history(kind: str, window: int = 4) -> PrunerHistory:
    return PrunerHistory(PrunerEntry("method", kind, 0 if kind == "none" else WIDTH), window)


@given(entries, st.integers(1, 6))
def test_window_any_stream_weighted_sum_is_mean_of_last_entries(pushed: list[np.ndarray], window: int) -> None:
    state = history("window", window)
    for count, entry in enumerate(pushed, start=1):
        state.push(entry)
        inputs = state.inputs()
        rows, weights = inputs["history"], inputs["history_weights"]
        assert rows.shape == (window, WIDTH)
        assert weights.shape == (window,)
        assert rows.dtype == weights.dtype == np.float32
        last = pushed[max(0, count - window) : count]
        filled = rows[: len(last)].tolist()
        assert sorted(filled) == sorted(row.tolist() for row in last)
        np.testing.assert_allclose(weights, [1 / len(last)] * len(last) + [0] * (window - len(last)), rtol=1e-6)


@given(entries, st.integers(1, 6))
def test_last_any_stream_is_the_last_entry_whatever_the_window(pushed: list[np.ndarray], window: int) -> None:
    state = history("last", window)
    for entry in pushed:
        state.push(entry)
        inputs = state.inputs()
        assert inputs["history"].tolist() == [entry.tolist()]
        assert inputs["history_weights"].tolist() == [1.0]


@given(entries)
def test_mean_any_stream_is_mean_of_all_and_leaves_current_frame_its_share(pushed: list[np.ndarray]) -> None:
    state = history("mean")
    for count, entry in enumerate(pushed, start=1):
        state.push(entry)
        inputs = state.inputs()
        assert inputs["history"].shape == (1, WIDTH)
        assert inputs["history"].dtype == inputs["history_weights"].dtype == np.float32
        expected = np.mean(np.array(pushed[:count], np.float64), axis=0)
        np.testing.assert_allclose(inputs["history"][0], expected, rtol=1e-6, atol=1e-6)
        assert inputs["history_weights"][0] == pytest.approx(count / (count + 1))


def test_mean_long_stream_does_not_drift() -> None:
    state = PrunerHistory(PrunerEntry("method", "mean", 2), 1)
    pushed = (1000 + np.random.default_rng(0).standard_normal((100_000, 2))).astype(np.float32)
    for entry in pushed:
        state.push(entry)
    expected = pushed.astype(np.float64).mean(axis=0).astype(np.float32)
    np.testing.assert_array_equal(state.inputs()["history"][0], expected)


@pytest.mark.parametrize("kind", ["window", "mean", "last"])
def test_inputs_before_first_entry_all_zero(kind: str) -> None:
    assert not any(array.any() for array in history(kind).inputs().values())


def test_none_has_no_inputs_and_takes_no_memory() -> None:
    state = history("none")
    state.push(np.ones(7, np.float32))
    assert state.inputs() == {}
    assert state.nbytes == 0


@pytest.mark.parametrize("kind", ["window", "mean", "last"])
def test_reset_equals_new(kind: str) -> None:
    state = history(kind)
    for value in range(7):
        state.push(np.full(WIDTH, value, np.float32))
    state.reset()
    fresh = history(kind)
    for value in (3.0, 5.0):
        for one in (state, fresh):
            one.push(np.full(WIDTH, value, np.float32))
        for name, array in fresh.inputs().items():
            np.testing.assert_array_equal(state.inputs()[name], array)
    assert state.entries == 2


@pytest.mark.parametrize(
    ("kind", "nbytes"),
    [("window", 4 * WIDTH * 4 + 4 * 4), ("mean", WIDTH * 4 + 4 + WIDTH * 8), ("last", WIDTH * 4 + 4)],
)
def test_nbytes_and_addresses_constant_for_life(kind: str, nbytes: int) -> None:
    state = history(kind)
    addresses = [array.ctypes.data for array in state.inputs().values()]
    for _ in range(9):
        state.push(np.ones(WIDTH, np.float32))
        assert state.nbytes == nbytes
    assert [array.ctypes.data for array in state.inputs().values()] == addresses


@pytest.mark.parametrize("shape", [(1,), (1, WIDTH), (WIDTH + 1,)])
@pytest.mark.parametrize("kind", ["window", "mean", "last"])
def test_push_other_shape_refused(kind: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(3,\\)"):
        history(kind).push(np.ones(shape, np.float32))
