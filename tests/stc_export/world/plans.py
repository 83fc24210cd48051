"""Clips that are planned by hand, for answers that are known by reading them."""

from __future__ import annotations

from stc_export.world.scene import COLOURS, SHAPES, Clip, Jolt, Leg, Span, Spark, Thing

FRAMES = 40


def plan(
    things: tuple[Thing, ...] = (),
    sign: tuple[Span, ...] = (),
    lamp: tuple[Span, ...] = (Span(0, FRAMES, 0),),
    sparks: tuple[Spark, ...] = (),
    jolts: tuple[Jolt, ...] = (),
    *,
    mirrored: bool = False,
) -> Clip:
    """A clip of 20 seconds."""
    return Clip("hand/0", 2, FRAMES, mirrored, things, sign, lamp, sparks, (Span(0, FRAMES, 0),), jolts)


def thing(shape: str, colour: str, legs: tuple[Leg, ...], radius: int = 19, side: int = 0) -> Thing:
    return Thing(SHAPES.index(shape), COLOURS.index(colour), radius, side, legs)


def resting(shape: str, colour: str, place: tuple[int, int], radius: int = 16) -> Thing:
    """An object that is at its place in every frame."""
    return thing(shape, colour, (Leg(0, 1, place, place),), radius)


#: In from the left in frames 2 to 6, out at the bottom in frames 20 to 24.
RED_BALL = thing("ball", "red", (Leg(2, 4, (-20, 84), (72, 84)), Leg(20, 4, (72, 84), (72, 212))))
#: In from the right in frames 10 to 13; it stays.
GREEN_BOX = thing("box", "green", (Leg(10, 3, (212, 156), (168, 156)),), side=1)
#: In from the bottom in frames 26 to 30; it stays.
BLUE_CONE = thing("cone", "blue", (Leg(26, 4, (120, 212), (120, 120)),), side=2)

STORY = plan(
    things=(RED_BALL, GREEN_BOX, BLUE_CONE),
    sign=(Span(4, 10, 7), Span(12, FRAMES, 3)),
    lamp=(Span(0, 9, COLOURS.index("red")), Span(9, 18, COLOURS.index("purple")), Span(18, FRAMES, 2)),
    sparks=(Spark(14, 2, COLOURS.index("yellow"), (24, 180)), Spark(28, 1, COLOURS.index("white"), (120, 84))),
    jolts=(Jolt(32, (5, -3)),),
)
