"""From a name to the plan of a clip."""

from __future__ import annotations

from stc_export.world.dice import Dice
from stc_export.world.scene import (
    COLOURS,
    COLUMNS,
    FLOOR,
    LANES,
    SHAPES,
    SIDE,
    SIDES,
    Clip,
    Jolt,
    Leg,
    Span,
    Spark,
    Thing,
)

#: Seconds of a clip and its frames per second; most clips are short, since that is where training time goes.
_RATES = (2, 2, 3, 4)
_SHORTEST_S = 6
_LONGEST_S = 20
_MOST_FRAMES = 40
_RADII = (14, 19)
#: Free pixels between a spark and an object's edge.
_SPARK_ROOM = 12


def write_clip(name: str, seconds: int | None = None) -> Clip:
    """Plan a clip.

    Args:
        name: Its seed, such as ``train/17``.
        seconds: Length; drawn between 6 and 20 if None. Longer ones are for tests of memory.

    Returns:
        The plan; the same name and length give the same one.
    """
    dice = Dice(f"script/{name}/{seconds or 0}")
    fps = dice.pick(_RATES)
    longest = min(_LONGEST_S * fps, _MOST_FRAMES)
    shortest = _SHORTEST_S * fps
    frames = min(dice.between(shortest, longest) for _ in range(2)) if seconds is None else seconds * fps
    things = _things(dice, frames)
    return Clip(
        name=name,
        fps=fps,
        frames=frames,
        mirrored=dice.chance(50),
        things=things,
        sign=_sign(dice, frames),
        lamp=_lamp(dice, frames),
        sparks=_sparks(dice, frames, things),
        backgrounds=_backgrounds(dice, frames),
        jolts=_jolts(dice, frames),
    )


def _things(dice: Dice, frames: int) -> tuple[Thing, ...]:
    count = dice.pick((2, 3, 3, 4, 4, 4))
    entries = dice.times(count, 0, frames - 5, 2)
    shapes, colours = dice.some(range(len(SHAPES)), len(entries)), dice.some(range(len(COLOURS)), len(entries))
    places = dice.some([(x, y) for x in COLUMNS for y in LANES], 2 * len(entries))
    things = []
    for number, entry in enumerate(entries):
        radius, side = dice.pick(_RADII), dice.between(0, len(SIDES) - 1)
        first, second = places[2 * number], places[2 * number + 1]
        legs = _legs(dice, entry, (side, radius), _near(dice, first), second)
        things.append(Thing(shape=shapes[number], colour=colours[number], radius=radius, side=side, legs=legs))
    return tuple(dice.some(things, len(things)))


def _near(dice: Dice, place: tuple[int, int]) -> tuple[int, int]:
    return place[0] + dice.between(-10, 10), place[1] + dice.between(-6, 6)


def _legs(
    dice: Dice, entry: int, looks: tuple[int, int], stop: tuple[int, int], other: tuple[int, int]
) -> tuple[Leg, ...]:
    """In, perhaps along one axis to another place, perhaps out."""
    side, radius = looks
    legs = [Leg(entry, dice.between(3, 5), _outside(side, radius, stop), stop)]
    if dice.chance(50):
        begin = legs[-1].start + legs[-1].frames + dice.between(2, 6)
        target = (other[0], stop[1]) if abs(other[0] - stop[0]) > abs(other[1] - stop[1]) else (stop[0], other[1])
        legs.append(Leg(begin, dice.between(2, 4), stop, target))
    if dice.chance(50):
        begin = legs[-1].start + legs[-1].frames + dice.between(2, 8)
        rest = legs[-1].target
        legs.append(Leg(begin, dice.between(3, 5), rest, _outside(dice.between(0, len(SIDES) - 1), radius, rest)))
    return tuple(legs)


def _outside(side: int, radius: int, place: tuple[int, int]) -> tuple[int, int]:
    name = SIDES[side]
    if name == "bottom":
        return place[0], SIDE + radius + 1
    return (-radius - 1 if name == "left" else SIDE + radius + 1), place[1]


def _sign(dice: Dice, frames: int) -> tuple[Span, ...]:
    starts = dice.times(dice.between(0, 4), 0, frames - 2, 3)
    spans: list[Span] = []
    for start, following in zip(starts, [*starts, frames][1:], strict=True):
        digit = dice.pick([d for d in range(10) if not spans or d != spans[-1].value])
        stop = min(start + dice.between(2, 4), following) if dice.chance(30) else following
        spans.append(Span(start, stop, digit))
    return tuple(spans)


def _lamp(dice: Dice, frames: int) -> tuple[Span, ...]:
    changes = dice.times(dice.between(0, 4), 2, frames - 2, 2)
    spans: list[Span] = []
    for start, stop in zip([0, *changes], [*changes, frames], strict=True):
        colour = dice.pick([c for c in range(len(COLOURS)) if not spans or c != spans[-1].value])
        spans.append(Span(start, stop, colour))
    return tuple(spans)


def _sparks(dice: Dice, frames: int, things: tuple[Thing, ...]) -> tuple[Spark, ...]:
    sparks = []
    for start in dice.times(dice.between(0, 3), 1, frames - 3, 4):
        length, colour = dice.between(1, 2), dice.between(0, len(COLOURS) - 1)
        free = [
            (x, y)
            for x in COLUMNS
            for y in range(FLOOR + 12, SIDE - 12, 6)
            if all(_apart((x, y), thing, when) for thing in things for when in range(start, start + length))
        ]
        if free:
            sparks.append(Spark(start, length, colour, dice.pick(free)))
    return tuple(sparks)


def _apart(place: tuple[int, int], thing: Thing, frame: int) -> bool:
    centre = thing.centre(frame)
    return centre is None or max(abs(place[0] - centre[0]), abs(place[1] - centre[1])) > thing.radius + _SPARK_ROOM


def _backgrounds(dice: Dice, frames: int) -> tuple[Span, ...]:
    if not dice.chance(25):
        return (Span(0, frames, 0),)
    cut = dice.between(3, frames - 3)
    return Span(0, cut, 0), Span(cut, frames, 1)


def _jolts(dice: Dice, frames: int) -> tuple[Jolt, ...]:
    if not dice.chance(30):
        return ()
    return (Jolt(dice.between(2, frames - 2), (dice.between(-8, 8), dice.between(-5, 5))),)
