"""The Pareto front against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.validate.front import Tradeoff, dominates, on_front

POINTS = st.lists(st.builds(Tradeoff, st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=30)


@given(POINTS)
def test_no_point_dominates_a_member(points: list[Tradeoff]) -> None:
    found = on_front(points)
    members = [point for point, member in zip(points, found, strict=True) if member]
    assert not [one for one in members for other in points if dominates(other, one)]


@given(POINTS)
def test_a_point_that_is_no_member_is_dominated_by_a_member(points: list[Tradeoff]) -> None:
    found = on_front(points)
    members = [point for point, member in zip(points, found, strict=True) if member]
    others = [point for point, member in zip(points, found, strict=True) if not member]
    assert all(any(m.cost <= o.cost and m.gain >= o.gain and m != o for m in members) for o in others)
    assert bool(members) == bool(points)


@given(POINTS, st.randoms(use_true_random=False))
def test_membership_does_not_depend_on_the_order(points: list[Tradeoff], random: object) -> None:
    order = sorted(range(len(points)), key=lambda _: random.random())  # type: ignore[attr-defined]
    found = on_front(points)
    assert on_front([points[place] for place in order]) == tuple(found[place] for place in order)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1, 1), (2, 2), (3, 2), (2, 1)], (True, True, False, False)),
        ([(1, 1), (1, 1)], (True, True)),
        ([(1, 1), (1, 2), (0, 1)], (False, True, True)),
        ([], ()),
    ],
    ids=["stairs", "equal ones", "better in one", "none"],
)
def test_members_of_small_sets(points: list[tuple[float, float]], expected: tuple[bool, ...]) -> None:
    assert on_front([Tradeoff(*point) for point in points]) == expected
