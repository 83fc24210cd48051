"""The picture of tokens: what is bright and what is dark, at places worked out by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stc_export.pipeline.picture import KEPT, RECOMPUTED, Layout, lit_pixels, plan, token_picture
from stc_export.pipeline.samples import FrameSample
from stc_export.spec.dims import VisionDims
from stc_export.spec.report import CacherMode, FrameReport

#: 4 x 4 tokens and 2 x 2 visual tokens: 72 and 144 pixels of a tile of 288.
SMALL = VisionDims(image_size=56, patch_size=14, width=32, mlp_width=64, heads=2, layers=1)
#: 27 x 27 tokens of 14 pixels with a strip of 6 left over, and 14 x 14 visual tokens.
SIGLIP = VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26)
COLOUR = (200, 120, 40)


def report(mode: CacherMode, recomputed: tuple[int, ...] = (), kept: tuple[int, ...] = ()) -> FrameReport:
    count = 16 if mode == "full" else len(recomputed)
    return FrameReport(1.5, mode, count, recomputed, 0.9, 0.1, 4, len(kept), kept, 0, 1.0, 2.0, 3.0, 4.0)


def sample(one: FrameReport, height: int = 96, width: int = 96) -> FrameSample:
    return FrameSample(np.full((height, width, 3), COLOUR, np.uint8), one)


def drawn(*samples: FrameSample) -> tuple[np.ndarray, Layout]:
    with Image.open(io.BytesIO(token_picture(samples, SMALL))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image), plan(samples, SMALL)


def is_bright(pixel: np.ndarray) -> bool:
    """The frame's own colour (True), or dark grey (False); nothing else."""
    if tuple(pixel) == COLOUR:
        return True
    assert pixel.max() == pixel.min()
    assert pixel.max() < 0.75 * np.mean(COLOUR)
    return False


def bright_tokens(picture: np.ndarray, corner: tuple[int, int], side: int) -> list[int]:
    cell = 288 // side
    centres = [
        (corner[1] + cell * row + cell // 2, corner[0] + cell * column + cell // 2)
        for row, column in np.ndindex(side, side)
    ]
    return [token for token, centre in enumerate(centres) if is_bright(picture[centre])]


def test_selective_frame_recomputed_and_kept_tokens_are_bright_and_framed() -> None:
    picture, layout = drawn(sample(report("selective", (1, 10), (2,))))
    upper, lower = layout.tiles(0)
    assert bright_tokens(picture, upper, 4) == [1, 10]
    assert bright_tokens(picture, lower, 2) == [2]
    x, y = upper[0] + 2 * 72, upper[1] + 2 * 72  # token 10 is in row 2, column 2
    for place in ((y, x), (y + 71, x + 71), (y + 36, x + 1), (y + 70, x + 36)):
        assert tuple(picture[place]) == RECOMPUTED
    for place in ((y - 1, x), (y, x - 1), (y + 72, x + 36), (y + 36, x + 3)):
        assert tuple(picture[place]) != RECOMPUTED
    assert tuple(picture[lower[1] + 287, lower[0] + 70]) == KEPT
    assert not is_bright(picture[lower[1] + 287, lower[0] + 200])


def test_full_frame_is_all_bright_and_skipped_frame_all_dark() -> None:
    picture, layout = drawn(sample(report("full", kept=(0, 3))), sample(report("skip")))
    (full, kept), (skip, nothing) = layout.tiles(0), layout.tiles(1)
    assert bright_tokens(picture, full, 4) == list(range(16))
    assert bright_tokens(picture, kept, 2) == [0, 3]
    assert bright_tokens(picture, skip, 4) == bright_tokens(picture, nothing, 2) == []
    assert tuple(picture[full[1], full[0]]) == RECOMPUTED
    assert tuple(picture[full[1] + 72, full[0] + 100]) == COLOUR  # no line between tokens of the same kind


def test_frame_whose_tokens_were_chosen_inside_marks_none_of_them() -> None:
    inside = replace(report("selective", kept=(1,)), recomputed=5)
    picture, layout = drawn(sample(inside))
    x, y = layout.tiles(0)[0]
    tile = picture[y : y + 288, x : x + 288]
    assert (tile == tile[0, 0]).all()
    assert tuple(tile[0, 0]) not in {COLOUR, RECOMPUTED}


@pytest.mark.parametrize(("side", "cell"), [(27, 14), (14, 27)])
def test_lit_pixels_follow_the_patches_and_the_last_takes_the_strip(side: int, cell: int) -> None:
    tokens = [0, side - 1, 5 * side + 3, side * side - 1]
    expected = np.zeros((384, 384), bool)
    for y in range(384):
        for x in range(384):
            expected[y, x] = min(y // cell, side - 1) * side + min(x // cell, side - 1) in tokens
    np.testing.assert_array_equal(lit_pixels(tokens, side, (384, 384), SIGLIP), expected)


def test_lit_pixels_of_a_wide_tile_stretch_with_it() -> None:
    mask = lit_pixels([6], 4, (80, 40), SMALL)
    expected = np.zeros((40, 80), bool)
    expected[10:20, 40:60] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("shape", [(96, 96), (720, 1280), (1920, 1080), (10, 400), (400, 10)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7])
def test_tiles_lie_apart_inside_the_sheet_in_the_proportions_of_the_frame(count: int, shape: tuple[int, int]) -> None:
    layout = plan([sample(report("full"), *shape)] * count, SMALL)
    width, height = layout.tile
    assert abs(width - height * shape[1] / shape[0]) <= max(1, shape[1] / shape[0])
    sheet = np.zeros(layout.size[::-1], int)
    for place in range(count):
        for x, y in layout.tiles(place):
            assert y >= layout.top
            assert x + width <= layout.size[0]
            assert y + height <= layout.size[1]
            sheet[y : y + height, x : x + width] += 1
    assert sheet.max() == 1


@pytest.mark.parametrize("shape", [(96, 96), (400, 10)])
def test_no_text_reaches_the_margins(shape: tuple[int, int]) -> None:
    samples = [sample(replace(report("selective", kept=(1,)), recomputed=5, time_s=36000.0), *shape)] * 3
    for count in (1, 3):
        picture, _ = drawn(*samples[:count])
        for edge in (picture[:10], picture[-10:], picture[:, :20], picture[:, -20:]):
            assert (edge == 255).all()


def test_frames_of_other_sizes_and_modes_have_the_tile_of_the_first() -> None:
    picture, layout = drawn(sample(report("full"), 96, 96), sample(report("full"), 50, 200))
    assert layout.tile == (288, 288)
    assert bright_tokens(picture, layout.tiles(1)[0], 4) == list(range(16))
