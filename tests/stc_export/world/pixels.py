"""What one sees in a frame, found from its pixels alone; and which pixels an object covers, in plain geometry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: The colours by name, as the documentation gives them.
RGB = {
    "red": (210, 40, 40),
    "green": (40, 165, 60),
    "blue": (50, 80, 215),
    "yellow": (225, 200, 40),
    "purple": (150, 50, 175),
    "white": (235, 235, 235),
}
Mask = npt.NDArray[np.bool_]


def nearest_colour(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Index of the colour with the most similar direction in RGB, whatever its brightness: uint8 [..., 3] -> [...]."""
    directions = np.array(list(RGB.values()), float)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (pixels.astype(float) @ directions.T).argmax(-1)


def colour_of(frame: npt.NDArray[np.uint8], place: tuple[int, int]) -> str:
    """Name of the colour of the 3 x 3 pixels around (x, y)."""
    x, y = place
    return list(RGB)[int(nearest_colour(frame[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))))]


def covered(shape: str, centre: tuple[int, int], radius: int, side: int = 192) -> Mask:
    """Pixels of the whole picture that a shape covers, in floating point: bool [side, side]."""
    x = np.arange(side)[None, :] - float(centre[0])
    y = np.arange(side)[:, None] - float(centre[1])
    distance = np.hypot(x, y)
    longest, shortest = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return {
        "ball": distance <= radius,
        "box": longest <= 0.875 * radius,
        "cone": (abs(y) <= radius) & (abs(x) <= (y + radius) / 2),
        "ring": (distance <= radius) & (distance >= radius / 2),
        "cross": (shortest <= radius / 3) & (longest <= radius),
        "diamond": abs(x) + abs(y) <= radius,
    }[shape]


def glyph(frame: npt.NDArray[np.uint8], centre: tuple[int, int]) -> tuple[str, ...]:
    """The 7 rows of 5 dots that a sign shows, ``#`` where a dot is dark."""
    x, y = centre
    block = frame[y - 17 : y + 18, x - 12 : x + 13].mean(-1)
    dark = block.reshape(7, 5, 5, 5).mean((1, 3)) < 100
    return tuple("".join("#" if dot else "." for dot in row) for row in dark)
