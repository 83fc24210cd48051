"""A picture of what the session did with a few frames: which tokens were recomputed, and which the LLM got.

Each frame is shown twice, one below the other: tokens of the vision transformer, and visual tokens of the LLM. Tokens
that something was done for keep their colours and are framed; the others are dark and grey.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.pipeline.samples import FrameSample
from stc_export.spec.dims import VisionDims
from stc_export.spec.report import CacherMode, FrameReport

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: Of Okabe and Ito's palette, whose colours stay apart for colour-blind readers.
RECOMPUTED = (230, 159, 0)
KEPT = (86, 180, 233)
_PAPER, _INK, _FAINT = (255, 255, 255), (34, 34, 34), (104, 104, 104)
_PILLS: dict[CacherMode, tuple[int, int, int]] = {
    "full": RECOMPUTED,
    "selective": (248, 222, 164),
    "skip": (217, 217, 217),
}
#: A token that nothing was done for has this share of its brightness, on top of a little, so that dark scenes show.
_DIM, _DIM_LEAST = 0.4, 22
#: A frame of which it is not known what was done for which token has this share.
_UNKNOWN = 0.7
_LINE = 2
_COLUMNS, _TILE, _TALLEST, _NARROWEST = 3, 288, 384, 232
_MARGIN, _GAP, _HEAD, _CAPTION, _LEGEND_LINE = 24, 24, 30, 26, 25
_LEGEND_TOP, _LEGEND_WIDTH, _LIT_X, _DARK_X, _SWATCH = 44, 696, 316, 452, 15
_LIT, _DARK = (232, 226, 208), (84, 84, 84)


@dataclass(frozen=True)
class _Key:
    """A line of the legend: what a row of pictures shows, and what a lit and a dark token mean there."""

    title: str
    colour: tuple[int, int, int]
    lit: str
    dark: str


@dataclass(frozen=True)
class Layout:
    """Where things are, in pixels.

    Attributes:
        tile: Width and height of one picture of a frame.
        columns: Frames beside each other.
        top: Where the first row of frames begins.
        size: Width and height of the whole picture.
    """

    tile: tuple[int, int]
    columns: int
    top: int
    size: tuple[int, int]

    def tiles(self, place: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the upper left corners (x, y) of the two pictures of a frame, by its place in the order of time."""
        row, column = divmod(place, self.columns)
        x = _MARGIN + column * (_column(self.tile) + _GAP)
        y = self.top + row * _block(self.tile) + _HEAD
        return (x, y), (x, y + self.tile[1] + _CAPTION)


def token_picture(samples: Sequence[FrameSample], vision: VisionDims) -> bytes:
    """Draw frames in the order given.

    Args:
        samples: At least one frame with its report. All are drawn in the proportions of the first.
        vision: Sizes of the vision transformer: they say where a token is.

    Returns:
        A PNG file.
    """
    from PIL import Image, ImageDraw

    layout = plan(samples, vision)
    sheet = Image.new("RGB", layout.size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_legend(draw, samples, vision)
    for place, sample in enumerate(samples):
        report = sample.report
        frame = Image.fromarray(sample.frame).resize(layout.tile, Image.Resampling.BICUBIC)
        upper, lower = layout.tiles(place)
        sheet.paste(Image.fromarray(_computed(np.asarray(frame), report, vision)), upper)
        sheet.paste(Image.fromarray(_passed_on(np.asarray(frame), report, vision)), lower)
        _draw_head(draw, upper, report)
        below = layout.tile[1] + 5
        first, second = _captions(report, vision)
        draw.text((upper[0], upper[1] + below), first, _INK, _font(13))
        draw.text((lower[0], lower[1] + below), second, _INK, _font(13))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def plan(samples: Sequence[FrameSample], vision: VisionDims) -> Layout:
    """Return where :func:`token_picture` draws what."""
    height, width = samples[0].frame.shape[:2]
    factor = min(_TILE / width, _TALLEST / height)
    tile = max(1, round(width * factor)), max(1, round(height * factor))
    columns = min(_COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    top = _LEGEND_TOP + (len(_keys(vision)) + len(_notes(samples))) * _LEGEND_LINE + _GAP
    wide = max(columns * (_column(tile) + _GAP) - _GAP, _LEGEND_WIDTH)
    return Layout(tile, columns, top, (wide + 2 * _MARGIN, top + rows * _block(tile)))


def lit_pixels(tokens: Sequence[int], side: int, tile: tuple[int, int], vision: VisionDims) -> Mask:
    """Return which pixels of a tile belong to some tokens: bool [height, width].

    A strip at the right and lower edge that is too narrow for a patch counts as part of the last token.

    Args:
        tokens: Raster indices.
        side: Tokens along one side of the frame.
        tile: Width and height.
        vision: Sizes of the vision transformer.
    """
    cells = np.zeros(side * side, np.bool_)
    cells[list(tokens)] = True
    seen = vision.grid * vision.patch_size / vision.image_size
    columns, rows = (
        np.minimum(((np.arange(length) + 0.5) / length / seen * side).astype(np.int64), side - 1) for length in tile
    )
    mask: Mask = cells.reshape(side, side)[rows[:, None], columns[None, :]]
    return mask


def _computed(frame: Pixels, report: FrameReport, vision: VisionDims) -> Pixels:
    if _is_unknown(report):
        return (frame * _UNKNOWN).astype(np.uint8)
    tokens = range(vision.tokens) if report.mode == "full" else report.recomputed_indices
    return _framed(frame, lit_pixels(tokens, vision.grid, _tile_of(frame), vision), RECOMPUTED)


def _passed_on(frame: Pixels, report: FrameReport, vision: VisionDims) -> Pixels:
    return _framed(frame, lit_pixels(report.kept_indices, vision.pooled_grid, _tile_of(frame), vision), KEPT)


def _is_unknown(report: FrameReport) -> bool:
    return report.mode == "selective" and not report.recomputed_indices


def _tile_of(frame: Pixels) -> tuple[int, int]:
    return frame.shape[1], frame.shape[0]


def _framed(frame: Pixels, lit: Mask, colour: tuple[int, int, int]) -> Pixels:
    """Darken what is not lit and draw a line around what is."""
    grey = frame.mean(axis=2, keepdims=True) * _DIM + _DIM_LEAST
    picture = np.where(lit[..., None], frame, grey)
    inner = lit
    for axis in (0, 1):
        shifts = [_shifted(inner, way, axis) for step in range(1, _LINE + 1) for way in (step, -step)]
        inner = np.logical_and.reduce([inner, *shifts])
    picture[lit & ~inner] = colour
    return picture.astype(np.uint8)


def _shifted(mask: Mask, way: int, axis: int) -> Mask:
    """Move a mask; what comes in from outside is not lit."""
    moved = np.roll(mask, way, axis)
    edge: list[slice] = [slice(None), slice(None)]
    edge[axis] = slice(0, way) if way > 0 else slice(way, None)
    moved[tuple(edge)] = False
    return moved


def _captions(report: FrameReport, vision: VisionDims) -> tuple[str, str]:
    if report.mode == "skip":
        return "Vision transformer: not run", "Language model: nothing new"
    recomputed = f"{report.recomputed} of {vision.tokens} recomputed"
    kept = f"{report.kept_tokens} of {report.visual_tokens} kept"
    return f"Vision transformer: {recomputed}", f"Language model: {kept}"


def _keys(vision: VisionDims) -> tuple[_Key, ...]:
    return (
        _Key(
            f"Upper: vision transformer, {vision.tokens} tokens",
            RECOMPUTED,
            "recomputed",
            "reused from an earlier frame",
        ),
        _Key(f"Lower: language model, {vision.visual_tokens} visual tokens", KEPT, "kept", "left out"),
    )


def _notes(samples: Sequence[FrameSample]) -> tuple[str, ...]:
    modes = "full: all tokens recomputed;  selective: those that changed most;  skip: nothing changed"
    unknown = "selective without orange: tokens were chosen inside the vision transformer, which does not say which"
    return (modes, unknown) if any(_is_unknown(sample.report) for sample in samples) else (modes,)


def _draw_legend(draw: Any, samples: Sequence[FrameSample], vision: VisionDims) -> None:
    draw.text((_MARGIN, 16), "What was computed, and what the language model got", _INK, _font(20))
    y = _LEGEND_TOP + 6
    for key in _keys(vision):
        draw.text((_MARGIN, y), key.title, _INK, _font(14))
        for x, fill, edge, text in ((_LIT_X, _LIT, key.colour, key.lit), (_DARK_X, _DARK, _DARK, key.dark)):
            draw.rectangle((x, y + 1, x + _SWATCH, y + 1 + _SWATCH), fill, edge, _LINE)
            draw.text((x + _SWATCH + 8, y), text, _INK, _font(14))
        y += _LEGEND_LINE
    for note in _notes(samples):
        draw.text((_MARGIN, y), note, _FAINT, _font(14))
        y += _LEGEND_LINE


def _draw_head(draw: Any, corner: tuple[int, int], report: FrameReport) -> None:
    x, y = corner[0], corner[1] - _HEAD + 4
    draw.text((x, y), f"{report.time_s:.1f} s", _INK, _font(15))
    left = x + int(_font(15).getlength(f"{report.time_s:.1f} s")) + 10
    right = left + int(_font(13).getlength(report.mode)) + 16
    draw.rounded_rectangle((left, y, right, y + 20), 10, _PILLS[report.mode])
    draw.text((left + 8, y + 2), report.mode, _INK, _font(13))


def _column(tile: tuple[int, int]) -> int:
    return max(tile[0], _NARROWEST)


def _block(tile: tuple[int, int]) -> int:
    return _HEAD + 2 * (tile[1] + _CAPTION) + _GAP


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
