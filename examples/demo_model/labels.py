"""What each visual token of a frame shows, from the plan of the clip: the targets of the tower's training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stc_export.world.dice import Dice
from stc_export.world.render import lamp_centre, sign_centre, visible_map
from stc_export.world.scene import (
    COLOURS,
    COLUMNS,
    DIGITS,
    FLOOR,
    SHAPES,
    SIDE,
    SIDES,
    Clip,
    Leg,
    Span,
    Spark,
    Thing,
    at,
)
from stc_export.world.state import MOTIONS, State

#: Visual tokens along one side.
GRID = 6
CELL = SIDE // GRID
IGNORE = -100
#: Classes of each head: the last one means that there is none; the sign can also be blank.
CLASSES = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "digit": len(DIGITS) + 2,
    "lamp": len(COLOURS) + 1,
    "spark": len(COLOURS) + 1,
    "cell": GRID * GRID,
}
#: Heads that say what is seen; the last one of :data:`CLASSES` says where.
_SEEN = ("shape", "colour", "digit", "lamp", "spark")
#: What is known of the object in a token, and the number of classes.
FACTS = {
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "column": len(COLUMNS),
    "motion": len(MOTIONS),
    "side": len(SIDES),
    "order": 4,
}
#: Frames of a still life.
STILLS = 8
#: Pixels of a cell from which on an object is labelled, and under which it counts as absent.
_LABELLED, _ABSENT = 90, 20


def still_life(name: str) -> Clip:
    """Plan a clip in which everything is somewhere else in each frame, to learn single frames from."""
    dice = Dice(f"still/{name}")
    count = dice.between(2, 5)
    looks = zip(dice.some(range(len(SHAPES)), count), dice.some(range(len(COLOURS)), count), strict=True)
    things = tuple(
        Thing(shape, colour, dice.pick((14, 19)), 0, tuple(_jump(dice, frame) for frame in range(STILLS)))
        for shape, colour in looks
    )
    return Clip(
        name=f"still/{name}",
        fps=2,
        frames=STILLS,
        mirrored=dice.chance(50),
        things=things,
        sign=tuple(Span(f, f + 1, dice.between(0, 9)) for f in range(STILLS) if dice.chance(85)),
        lamp=tuple(Span(f, f + 1, dice.between(0, len(COLOURS) - 1)) for f in range(STILLS)),
        sparks=tuple(
            Spark(f, 1, dice.between(0, len(COLOURS) - 1), (dice.pick(COLUMNS), dice.between(FLOOR + 12, SIDE - 12)))
            for f in range(STILLS)
            for _ in range(dice.between(0, 2))
        ),
        backgrounds=(Span(0, STILLS // 2, 0), Span(STILLS // 2, STILLS, 1)),
        jolts=(),
    )


def _jump(dice: Dice, frame: int) -> Leg:
    place = dice.between(-6, SIDE + 6), dice.between(FLOOR + 10, SIDE + 6)
    return Leg(frame, 1, place, place)


def token_labels(clip: Clip, frame: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return what each visual token shows.

    Returns:
        One class per head of :data:`CLASSES` and token, int64 [heads, 36], :data:`IGNORE` if unsure; and the centre
        (x, y) of the object from the centre of the token, in tokens, float32 [36, 2], NaN where there is none.
    """
    best, most = _largest(clip, frame)
    shape = np.array([clip.things[place].shape for place in best])
    colour = np.array([clip.things[place].colour for place in best])
    unsure = (most >= _ABSENT) & (most < _LABELLED)
    for values, none in ((shape, len(SHAPES)), (colour, len(COLOURS))):
        values[most < _ABSENT] = none
        values[unsure] = IGNORE
    digit = at(clip.sign, frame)
    labels = {
        "shape": shape,
        "colour": colour,
        "digit": _fixed(sign_centre(clip), (12, 17), len(DIGITS) if digit is None else digit, len(DIGITS) + 1),
        "lamp": _fixed(lamp_centre(clip), (14, 14), at(clip.lamp, frame) or 0, len(COLOURS)),
        "spark": _sparks(clip, frame),
        "cell": np.arange(GRID * GRID),
    }
    centres = np.array([thing.centre(frame) or (0, 0) for thing in clip.things], np.float32)
    middles = np.stack([labels["cell"] % GRID, labels["cell"] // GRID], axis=1) * CELL + CELL // 2
    offsets = (centres[best] - middles.astype(np.float32)) / CELL
    offsets[most < _LABELLED] = np.nan
    return np.stack([labels[head] for head in CLASSES]), offsets


def token_facts(clip: Clip, states: Sequence[State]) -> npt.NDArray[np.int8]:
    """Return what the LLM should know of each visual token: int8 [F, 36, 1 + facts].

    First whether there is anything at all in the token (1) or only background (0), then one class per entry of
    :data:`FACTS` about the object in it, -1 if there is none or it cannot be said.
    """
    table = np.full((clip.frames, GRID * GRID, 1 + len(FACTS)), -1, np.int8)
    nothing = np.array([CLASSES[head] - 1 for head in _SEEN])[:, None]
    for state in states:
        labels, _ = token_labels(clip, state.frame)
        table[state.frame, :, 0] = (labels[: len(_SEEN)] != nothing).any(0)
        best, most = _largest(clip, state.frame)
        entered = sorted(sight.entered for sight in state.sights if sight.entered is not None)
        for place, sight in enumerate(state.sights):
            order = None if sight.entered is None else entered.index(sight.entered)
            values = (sight.shape, sight.colour, sight.column, sight.motion, sight.side, order)
            table[state.frame, (best == place) & (most >= _LABELLED), 1:] = [-1 if v is None else v for v in values]
    return table


def _largest(clip: Clip, frame: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the object with the most pixels in each token, and how many those are: int64 [36] each."""
    owner = visible_map(clip, frame).reshape(GRID, CELL, GRID, CELL).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    counts = np.stack([(owner == place).sum(1) for place in range(len(clip.things))], axis=1)
    return counts.argmax(1), counts.max(1)


def _overlap(centre: tuple[int, int], half: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return how many pixels of a rectangle each token holds: int64 [36]."""
    edges = np.arange(GRID) * CELL
    sides = []
    for middle, reach in zip(centre, half, strict=True):
        sides.append(np.clip(np.minimum(edges + CELL, middle + reach) - np.maximum(edges, middle - reach), 0, None))
    return np.outer(sides[1], sides[0]).reshape(-1)


def _fixed(centre: tuple[int, int], half: tuple[int, int], value: int, none: int) -> npt.NDArray[np.int64]:
    area = _overlap(centre, half)
    labels = np.where(area >= 100, value, none)
    labels[(area > 0) & (area < 100)] = IGNORE
    return labels


def _sparks(clip: Clip, frame: int) -> npt.NDArray[np.int64]:
    labels = np.full(GRID * GRID, len(COLOURS))
    for spark in clip.sparks:
        if spark.start <= frame < spark.start + spark.frames:
            area = _overlap(spark.centre, (7, 7))
            labels[area >= 70] = spark.colour
            labels[(area > 0) & (area < 70)] = IGNORE
    return labels
