"""What a clip is made of: the plan of a scene, before a pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass

#: Side of a frame in pixels.
SIDE = 192
#: Rows above this one belong to the sign and the lamp; objects stay below it.
FLOOR = 60
#: Places where objects stop: four columns, three lanes (centres, in pixels).
COLUMNS = (24, 72, 120, 168)
LANES = (84, 120, 156)

SHAPES = ("ball", "box", "cone", "ring", "cross", "diamond")
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
COLUMN_NAMES = ("leftmost", "left", "right", "rightmost")
SIDES = ("left", "right", "bottom")
DIGITS = tuple("0123456789")
#: RGB of each of :data:`COLOURS`.
RGB = ((210, 40, 40), (40, 165, 60), (50, 80, 215), (225, 200, 40), (150, 50, 175), (235, 235, 235))


@dataclass(frozen=True)
class Leg:
    """A straight move along one axis; the object rests at its end until the next leg begins.

    Attributes:
        start: Frame at which the object is still at ``origin``.
        frames: Frames that the move takes, at least 1.
        origin: Centre (x, y) in pixels.
        target: Centre (x, y) in pixels.
    """

    start: int
    frames: int
    origin: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True)
class Thing:
    """An object: its looks and its way through the picture.

    Attributes:
        shape: Index into :data:`SHAPES`; no two objects of a clip share it.
        colour: Index into :data:`COLOURS`; no two objects of a clip share it.
        radius: Half its width in pixels.
        side: Index into :data:`SIDES`: where it comes in.
        legs: Its moves in order of time. The first begins outside the picture.
    """

    shape: int
    colour: int
    radius: int
    side: int
    legs: tuple[Leg, ...]

    def centre(self, frame: int) -> tuple[int, int] | None:
        """Return (x, y) at a frame, or None before the first leg begins."""
        begun = [leg for leg in self.legs if leg.start <= frame]
        if not begun:
            return None
        leg = begun[-1]
        done = min(frame - leg.start, leg.frames)
        (x0, y0), (x1, y1) = leg.origin, leg.target
        return x0 + (x1 - x0) * done // leg.frames, y0 + (y1 - y0) * done // leg.frames


@dataclass(frozen=True)
class Span:
    """Something that lasts from one frame to another.

    Attributes:
        start: First frame.
        stop: First frame after it.
        value: A digit, an index into :data:`COLOURS`, a background's number: what lasts.
    """

    start: int
    stop: int
    value: int

    def covers(self, frame: int) -> bool:
        """Whether it lasts at this frame."""
        return self.start <= frame < self.stop


@dataclass(frozen=True)
class Spark:
    """A small, short flash.

    Attributes:
        start: First frame.
        frames: How many frames it lasts: 1 or 2.
        colour: Index into :data:`COLOURS`.
        centre: (x, y) in pixels, in the middle of one of the columns.
    """

    start: int
    frames: int
    colour: int
    centre: tuple[int, int]


@dataclass(frozen=True)
class Jolt:
    """The camera is pushed for one frame: the whole picture is shifted by (x, y) pixels."""

    frame: int
    shift: tuple[int, int]


@dataclass(frozen=True)
class Clip:
    """The whole plan of a clip.

    Attributes:
        name: Where its seed comes from, as ``split/number``; every random choice depends on it alone.
        fps: Frames per second.
        frames: Length in frames.
        mirrored: Whether the sign hangs at the right and the lamp at the left, instead of the other way round.
        things: Objects in drawing order: later ones hide earlier ones.
        sign: What the sign shows; blank in the gaps.
        lamp: The lamp's colours, without gaps.
        sparks: In order of time.
        backgrounds: Which background is seen when, without gaps; a new one is a camera cut.
        jolts: In order of time.
    """

    name: str
    fps: int
    frames: int
    mirrored: bool
    things: tuple[Thing, ...]
    sign: tuple[Span, ...]
    lamp: tuple[Span, ...]
    sparks: tuple[Spark, ...]
    backgrounds: tuple[Span, ...]
    jolts: tuple[Jolt, ...]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.fps


def at(spans: tuple[Span, ...], frame: int) -> int | None:
    """Return the value that lasts at a frame, or None in a gap."""
    return next((span.value for span in spans if span.covers(frame)), None)
