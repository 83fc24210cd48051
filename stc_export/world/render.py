"""From the plan of a clip to its frames. Integers only: the same plan gives the same bytes on any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stc_export.world.dice import stream
from stc_export.world.scene import FLOOR, RGB, SIDE, Clip, Thing, at

if TYPE_CHECKING:
    from collections.abc import Iterator

Picture = npt.NDArray[np.uint8]
Grid = npt.NDArray[np.int32]

#: Centres (x, y) of sign and lamp when the clip is not mirrored.
_SIGN = (40, 30)
_LAMP = (152, 30)
_SPARK_RADIUS = 7
_LAMP_RADIUS = 19
#: Digits as 5 x 7 dots, one string of rows each.
_FONT = (
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
_DOT = 5
#: Each octave of the texture: cells along a side, strength.
_OCTAVES = ((4, 26), (12, 16), (48, 14))

#: Noise of a random byte: the sum of an even draw from each half of it.
_NOISE = np.array([(byte & 15) % 7 + (byte >> 4) % 7 - 6 for byte in range(256)], np.int8)


class Renderer:
    """Draws the frames of one clip; its backgrounds are drawn once.

    Args:
        clip: What to draw.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._backgrounds = [_background(f"{clip.name}/{span.value}") for span in clip.backgrounds]
        self._light = _light(clip)

    def frame(self, number: int) -> Picture:
        """Return frame ``number``: uint8 [192, 192, 3] RGB."""
        clip = self._clip
        canvas = self._backgrounds[at(clip.backgrounds, number) or 0].copy()
        _draw_sign(canvas, clip, number)
        _draw_lamp(canvas, clip, number)
        for thing in clip.things:
            _draw_thing(canvas, thing, number)
        _draw_sparks(canvas, clip, number)
        for jolt in clip.jolts:
            if jolt.frame == number:
                canvas = np.roll(canvas, jolt.shift[::-1], axis=(0, 1))
        canvas *= self._light[number]
        canvas >>= 8
        canvas += _sensor_noise(clip, number)
        return np.clip(canvas, 0, 255).astype(np.uint8)

    def frames(self) -> Iterator[Picture]:
        """Yield all frames in order."""
        return (self.frame(number) for number in range(self._clip.frames))


def shape_patch(thing: Thing, centre: tuple[int, int]) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]]:
    """Return where an object would be seen if nothing hid it.

    Returns:
        Rows and columns of the part of the picture that its square covers, perhaps none, and bool [rows, columns].
    """
    x, y, r = *centre, thing.radius
    rows, columns = (slice(max(c - r, 0), max(min(c + r + 1, SIDE), 0)) for c in (y, x))
    dy, dx = np.ogrid[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    return (rows, columns), _SHAPE_RULES[thing.shape](dx, dy, r)


def visible_map(clip: Clip, number: int) -> npt.NDArray[np.int8]:
    """Return which object is seen at each pixel: int8 [192, 192], -1 where none is."""
    owner = np.full((SIDE, SIDE), -1, np.int8)
    for place, thing in enumerate(clip.things):
        centre = thing.centre(number)
        if centre is not None:
            window, mask = shape_patch(thing, centre)
            owner[window][mask] = place
    return owner


def _ball(dx: Grid, dy: Grid, r: int) -> npt.NDArray[np.bool_]:
    return dx * dx + dy * dy <= r * r


def _box(dx: Grid, dy: Grid, r: int) -> npt.NDArray[np.bool_]:
    return np.maximum(abs(dx), abs(dy)) * 8 <= r * 7


def _cone(dx: Grid, dy: Grid, r: int) -> npt.NDArray[np.bool_]:
    return (abs(dy) <= r) & (abs(dx) * 2 <= dy + r)


def _ring(dx: Grid, dy: Grid, r: int) -> npt.NDArray[np.bool_]:
    square = dx * dx + dy * dy
    return (square <= r * r) & (square * 4 >= r * r)


def _cross(dx: Grid, dy: Grid, r: int) -> npt.NDArray[np.bool_]:
    return (np.minimum(abs(dx), abs(dy)) * 3 <= r) & (np.maximum(abs(dx), abs(dy)) <= r)


def _diamond(dx: Grid, dy: Grid, r: int) -> npt.NDArray[np.bool_]:
    return abs(dx) + abs(dy) <= r


#: In the order of ``scene.SHAPES``.
_SHAPE_RULES = (_ball, _box, _cone, _ring, _cross, _diamond)


def _background(name: str) -> Grid:
    """Return a wall and a floor with a texture of three octaves: int32 [192, 192, 3], 0 to 255."""
    rng = stream(f"background/{name}")
    texture = np.zeros((SIDE, SIDE, 1), np.int32)
    for cells, strength in _OCTAVES:
        coarse = rng.randint(-strength, strength + 1, (cells + 1, cells + 1)).astype(np.int32)
        texture[..., 0] += _enlarge(coarse, SIDE // cells)
    wall, floor = (rng.randint(70, 150) + rng.randint(-22, 23, 3) for _ in range(2))
    canvas = np.empty((SIDE, SIDE, 3), np.int32)
    canvas[:FLOOR], canvas[FLOOR:] = wall, floor
    board = int(rng.randint(16, 40))
    canvas[FLOOR + int(rng.randint(0, board)) :: board] -= 14
    lit: Grid = np.clip(canvas + texture, 0, 255)
    return lit


def _enlarge(coarse: Grid, factor: int) -> Grid:
    """Interpolate linearly along both axes, in integers."""
    steps = np.arange(factor, dtype=np.int32)
    rows = (coarse[:-1, None] * (factor - steps)[:, None] + coarse[1:, None] * steps[:, None]) // factor
    rows = rows.reshape(-1, coarse.shape[1])
    columns = (rows[:, :-1, None] * (factor - steps) + rows[:, 1:, None] * steps) // factor
    return np.asarray(columns.reshape(rows.shape[0], -1), np.int32)


def _light(clip: Clip) -> list[int]:
    """Return the light of each frame in 1/256: a slow random walk between 0.86 and 1.14."""
    rng = stream(f"light/{clip.name}")
    level, levels = int(rng.randint(236, 277)), []
    for _ in range(clip.frames):
        level = min(292, max(220, level + int(rng.randint(-3, 4))))
        levels.append(level)
    return levels


def _sensor_noise(clip: Clip, number: int) -> npt.NDArray[np.int8]:
    """Return triangular noise from -6 to 6: int8 [192, 192, 3]."""
    raw = np.frombuffer(stream(f"noise/{clip.name}/{number}").bytes(SIDE * SIDE * 3), np.uint8)
    return _NOISE[raw].reshape(SIDE, SIDE, 3)


def _draw_thing(canvas: Grid, thing: Thing, number: int) -> None:
    centre = thing.centre(number)
    if centre is None:
        return
    window, mask = shape_patch(thing, centre)
    x, y, r = *centre, thing.radius
    dy, dx = np.ogrid[window[0].start - y : window[0].stop - y, window[1].start - x : window[1].stop - x]
    shade = 256 - 60 * (dx + dy + r) // (2 * r)  # lit from the upper left
    looks = (np.array(RGB[thing.colour], np.int32) * shade[..., None]) >> 8
    canvas[window][mask] = looks[mask]


def _draw_sparks(canvas: Grid, clip: Clip, number: int) -> None:
    r = _SPARK_RADIUS
    dy, dx = abs(np.ogrid[-r : r + 1, -r : r + 1][0]), abs(np.ogrid[-r : r + 1, -r : r + 1][1])
    rays = (np.minimum(dx, dy) <= 1) | (abs(dx - dy) <= 1)
    for spark in clip.sparks:
        if spark.start <= number < spark.start + spark.frames:
            x, y = spark.centre
            canvas[y - r : y + r + 1, x - r : x + r + 1][rays] = RGB[spark.colour]


def _place(clip: Clip, place: tuple[int, int]) -> tuple[int, int]:
    return (SIDE - place[0] if clip.mirrored else place[0]), place[1]


def sign_centre(clip: Clip) -> tuple[int, int]:
    """Return the centre (x, y) of the sign."""
    return _place(clip, _SIGN)


def lamp_centre(clip: Clip) -> tuple[int, int]:
    """Return the centre (x, y) of the lamp."""
    return _place(clip, _LAMP)


def _draw_sign(canvas: Grid, clip: Clip, number: int) -> None:
    x, y = sign_centre(clip)
    canvas[y - 25 : y + 26, x - 20 : x + 21] = (25, 28, 32)
    canvas[y - 23 : y + 24, x - 18 : x + 19] = (230, 226, 210)
    digit = at(clip.sign, number)
    if digit is not None:
        dots = np.array([[bit == "1" for bit in row] for row in _FONT[digit].split()])
        glyph = dots.repeat(_DOT, 0).repeat(_DOT, 1)
        top, left = y - glyph.shape[0] // 2, x - glyph.shape[1] // 2
        canvas[top : top + glyph.shape[0], left : left + glyph.shape[1]][glyph] = (20, 20, 24)


def _draw_lamp(canvas: Grid, clip: Clip, number: int) -> None:
    x, y = lamp_centre(clip)
    r = _LAMP_RADIUS
    dy, dx = np.ogrid[-r : r + 1, -r : r + 1]
    square = dx * dx + dy * dy
    patch = canvas[y - r : y + r + 1, x - r : x + r + 1]
    patch[square <= r * r] = (30, 30, 34)
    patch[square <= 14 * 14] = RGB[at(clip.lamp, number) or 0]
