from __future__ import annotations

import hashlib
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stc_export.world.dice import Dice, stream


@given(st.text(max_size=5), st.integers(-2, 8), st.integers(0, 50), st.integers(-5, 60), st.integers(1, 9))
def test_times_are_sorted_in_range_and_apart(seed: str, count: int, first: int, length: int, gap: int) -> None:
    last = first + length
    found = Dice(seed).times(count, first, last, gap)
    assert all(first <= time <= last for time in found)
    assert all(b - a >= gap for a, b in itertools.pairwise(found))
    fitting = 0 if length < 0 else length // gap + 1
    assert len(found) == max(0, min(count, fitting))


@given(st.text(max_size=5), st.lists(st.integers(), unique=True, max_size=9), st.data())
def test_some_are_different_ones_of_the_values(seed: str, values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    found = Dice(seed).some(values, count)
    assert len(found) == len(set(found)) == count
    assert set(found) <= set(values)


def test_stream_is_the_twister_seeded_with_the_start_of_the_hash() -> None:
    seed = int(hashlib.sha256(b"script/train/0/0").hexdigest()[:8], 16)
    expected = np.random.RandomState(seed).randint(0, 1000, 8)
    np.testing.assert_array_equal(stream("script/train/0/0").randint(0, 1000, 8), expected)


def test_between_reaches_both_ends_and_chance_its_share() -> None:
    dice = Dice("ends")
    assert {dice.between(3, 6) for _ in range(200)} == {3, 4, 5, 6}
    hits = sum(dice.chance(30) for _ in range(2000))
    assert abs(hits - 600) < 4 * (2000 * 0.3 * 0.7) ** 0.5
