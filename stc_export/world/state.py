"""What is true at each frame of a clip, for questions and for training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stc_export.world.render import shape_patch, visible_map
from stc_export.world.scene import COLUMNS, SIDE, Clip, at

#: A thing counts as there from this share of its area on, and as away up to the other one; in between nobody asks.
_THERE = 0.5
_AWAY = 0.04
#: Pixels between the middles of two columns that belong to neither.
_BORDER = 6
#: Pixels per frame from which on something moves.
_MOVES = 4

#: Values of :attr:`Sight.motion`.
MOTIONS = ("left", "right", "up", "down", "still")


@dataclass(frozen=True)
class Sight:
    """One object at one frame.

    Attributes:
        shape: Index into ``scene.SHAPES``.
        colour: Index into ``scene.COLOURS``.
        there: True, False, or None if too little or too much of it is hidden to say.
        been: True if it was there at this frame or before, False if never, None if one cannot say.
        left: Frame at which it had gone out of the picture, or None.
        entered: First frame at which it was there, or None.
        side: Index into ``scene.SIDES``: where it came in.
        centre: (x, y) in pixels, or None before it exists.
        column: Index into ``scene.COLUMN_NAMES``, or None near a border.
        motion: Index into :data:`MOTIONS`, or None when the last two steps disagree.
    """

    shape: int
    colour: int
    there: bool | None
    been: bool | None
    left: int | None
    entered: int | None
    side: int
    centre: tuple[int, int] | None
    column: int | None
    motion: int | None


@dataclass(frozen=True)
class State:
    """What is true at one frame, the past included.

    Attributes:
        frame: Its number.
        shaken: Whether the camera is being pushed: nothing is asked then.
        sights: One per object of the clip.
        digits: What the sign has shown so far, in order.
        digit: What it shows now.
        lamp: Colours of the lamp so far, in order; the last one is seen now.
        sparks: (colour, column) of the flashes so far, in order.
    """

    frame: int
    shaken: bool
    sights: tuple[Sight, ...]
    digits: tuple[int, ...]
    digit: int | None
    lamp: tuple[int, ...]
    sparks: tuple[tuple[int, int], ...]


def tell(clip: Clip) -> tuple[State, ...]:
    """Return the state at every frame of a clip."""
    shares, inside = _areas(clip)
    return tuple(
        State(
            frame=frame,
            shaken=any(jolt.frame == frame for jolt in clip.jolts),
            sights=tuple(
                _sight(clip, place, frame, shares[: frame + 1, place], inside[: frame + 1, place])
                for place in range(len(clip.things))
            ),
            digits=tuple(span.value for span in clip.sign if span.start <= frame),
            digit=at(clip.sign, frame),
            lamp=tuple(span.value for span in clip.lamp if span.start <= frame),
            sparks=tuple((s.colour, column_of(s.centre[0]) or 0) for s in clip.sparks if s.start <= frame),
        )
        for frame in range(clip.frames)
    )


def column_of(x: int) -> int | None:
    """Return the column of an x in pixels, or None near a border between two."""
    width = SIDE // len(COLUMNS)
    if any(abs(x - border) < _BORDER for border in range(width, SIDE, width)):
        return None
    return min(max(x // width, 0), len(COLUMNS) - 1)


def _areas(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Return which share of each object is seen, and which lies inside the picture: float64 [frames, objects]."""
    seen = np.zeros((clip.frames, len(clip.things)))
    inside = np.zeros_like(seen)
    whole = np.array([shape_patch(thing, (SIDE // 2, SIDE // 2))[1].sum() for thing in clip.things])
    for frame in range(clip.frames):
        pixels = np.bincount(visible_map(clip, frame).ravel() + 1, minlength=len(clip.things) + 1)
        seen[frame] = pixels[1:] / whole
        for place, thing in enumerate(clip.things):
            centre = thing.centre(frame)
            inside[frame, place] = 0 if centre is None else shape_patch(thing, centre)[1].sum() / whole[place]
    return seen, inside


def _sight(clip: Clip, place: int, frame: int, seen: np.ndarray, inside: np.ndarray) -> Sight:
    thing = clip.things[place]
    centre = thing.centre(frame)
    was_there = np.flatnonzero(seen >= _THERE)
    entered = int(was_there[0]) if len(was_there) else None
    there: bool | None = None
    if seen[-1] >= _THERE:
        there = True
    elif inside[-1] <= _AWAY:
        there = False
    gone = [] if entered is None else np.flatnonzero(inside[entered:] <= _AWAY).tolist()
    return Sight(
        shape=thing.shape,
        colour=thing.colour,
        there=there,
        been=True if entered is not None else (False if seen.max() <= _AWAY else None),
        left=int(gone[0]) + (entered or 0) if len(gone) else None,
        entered=entered,
        side=thing.side,
        centre=centre,
        column=None if centre is None else column_of(centre[0]),
        motion=_motion(clip, place, frame),
    )


def _motion(clip: Clip, place: int, frame: int) -> int | None:
    """Return the direction of the last step; None if the object has only just started, stopped or come in."""
    steps = []
    for last in (frame, frame - 1):
        now, before = clip.things[place].centre(last), clip.things[place].centre(last - 1)
        if now is None or before is None:
            return None
        steps.append(_direction(now[0] - before[0], now[1] - before[1]))
    still = MOTIONS.index("still")
    if steps[0] == still and steps[1] != still:
        return None
    return steps[0]


def _direction(dx: int, dy: int) -> int:
    if max(abs(dx), abs(dy)) < _MOVES:
        return MOTIONS.index("still")
    if abs(dx) >= abs(dy):
        return MOTIONS.index("left" if dx < 0 else "right")
    return MOTIONS.index("up" if dy < 0 else "down")
