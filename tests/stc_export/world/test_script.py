from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.world.scene import FLOOR, SIDE, Clip, Leg, Span, at
from stc_export.world.script import write_clip
from tests.stc_export.world.plans import RED_BALL

CLIPS = st.integers(0, 10**9).map(lambda number: write_clip(f"train/{number}"))


def step(leg: Leg) -> int:
    """Longest way of one frame along the leg's axis, in pixels."""
    distance = max(abs(a - b) for a, b in zip(leg.origin, leg.target, strict=True))
    return -(-distance // leg.frames)


@given(CLIPS)
@settings(max_examples=60)
def test_centre_moves_no_further_than_its_legs_allow(clip: Clip) -> None:
    for thing in clip.things:
        path = [centre for frame in range(clip.frames) if (centre := thing.centre(frame)) is not None]
        allowed = max(map(step, thing.legs))
        for (x0, y0), (x1, y1) in itertools.pairwise(path):
            assert x0 == x1 or y0 == y1
            assert abs(x1 - x0) + abs(y1 - y0) <= allowed


@given(CLIPS)
@settings(max_examples=60)
def test_plan_keeps_what_questions_rely_on(clip: Clip) -> None:
    shapes, colours = [t.shape for t in clip.things], [t.colour for t in clip.things]
    assert len(set(shapes)) == len(shapes)
    assert len(set(colours)) == len(colours)
    assert clip.frames <= 40
    assert 6 <= clip.seconds <= 20
    for thing in clip.things:
        (x, y), r = thing.legs[0].origin, thing.radius
        assert x < -r or x > SIDE - 1 + r or y > SIDE - 1 + r, "it begins outside the picture"
        for before, after in zip(thing.legs, thing.legs[1:], strict=False):
            assert after.origin == before.target
            assert after.start >= before.start + before.frames
        for leg in thing.legs:
            assert min(leg.origin[1], leg.target[1]) - r > FLOOR - 2, "signs and lamps stay free"
    assert all(a.value != b.value for spans in (clip.sign, clip.lamp) for a, b in itertools.pairwise(spans))
    assert all(at(spans, frame) is not None for spans in (clip.lamp, clip.backgrounds) for frame in range(clip.frames))


@given(CLIPS)
@settings(max_examples=60)
def test_spark_is_never_near_an_object(clip: Clip) -> None:
    for spark in clip.sparks:
        for frame in range(spark.start, spark.start + spark.frames):
            for thing in clip.things:
                centre = thing.centre(frame)
                if centre is not None:
                    gap = max(abs(a - b) for a, b in zip(centre, spark.centre, strict=True)) - thing.radius
                    assert gap > 7, "a spark reaches 7 pixels"


def test_length_in_seconds_is_kept() -> None:
    clip = write_clip("train/3", 60)
    assert clip.seconds == 60
    assert clip == write_clip("train/3", 60)


def test_centre_follows_the_leg_and_rests_at_its_end() -> None:
    found = [RED_BALL.centre(frame) for frame in (1, 2, 3, 4, 5, 6, 7, 20, 21, 24, 39)]
    expected = [
        None,
        (-20, 84),
        (3, 84),
        (26, 84),
        (49, 84),
        (72, 84),
        (72, 84),
        (72, 84),
        (72, 116),
        (72, 212),
        (72, 212),
    ]
    assert found == expected


def test_value_at_a_frame_is_none_in_a_gap() -> None:
    spans = (Span(2, 4, 7), Span(6, 8, 1))
    assert [at(spans, frame) for frame in range(9)] == [None, None, 7, 7, None, None, 1, 1, None]
