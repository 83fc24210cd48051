"""Labels that hide nothing."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from stc_export.pipeline.validate.labels import Box, box_around, place_labels

FRAME = Box(0, 0, 1200, 600)
PLACES = st.tuples(st.floats(40, 1160), st.floats(40, 560))


@given(st.lists(PLACES, min_size=1, max_size=31))
def test_labels_of_thirty_settings_overlap_neither_each_other_nor_a_marker(points: list[tuple[float, float]]) -> None:
    markers = [box_around(x, y, 18, 18) for x, y in points]
    boxes = place_labels(points, [(27.0, 19.0)] * len(points), markers, FRAME)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert not [1 for box in boxes for marker in markers if box.overlaps(marker)]
    assert all(box.within(FRAME) for box in boxes)


def test_labels_of_equal_points_are_all_near_them() -> None:
    point = (600.0, 300.0)
    boxes = place_labels([point] * 31, [(27.0, 19.0)] * 31, [box_around(*point, 18, 18)], FRAME)
    assert len(set(boxes)) == 31
    assert all(box.within(box_around(*point, 300, 300)) for box in boxes)


def test_a_label_without_room_is_over_its_point() -> None:
    assert place_labels([(5.0, 5.0)], [(8.0, 8.0)], [], Box(0, 0, 4, 4)) == [Box(1, 1, 9, 9)]


def test_boxes_that_touch_do_not_overlap() -> None:
    assert not Box(0, 0, 2, 2).overlaps(Box(2, 0, 4, 2))
    assert Box(0, 0, 2, 2).overlaps(Box(1, 1, 4, 4))
