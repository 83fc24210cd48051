from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from stc_export.world.render import Renderer, lamp_centre, shape_patch, sign_centre
from stc_export.world.scene import COLOURS, RGB, SHAPES, Leg, Span, Thing
from stc_export.world.script import write_clip
from tests.stc_export.world import pixels
from tests.stc_export.world.plans import FRAMES, STORY, plan, resting

SEVEN = ("#####", "....#", "...#.", "..#..", ".#...", ".#...", ".#...")
BLANK = (".....",) * 7


def test_colours_are_the_documented_ones() -> None:
    assert dict(zip(COLOURS, RGB, strict=True)) == pixels.RGB


@pytest.mark.parametrize("mirrored", [False, True])
def test_sign_shows_its_digit_and_is_blank_in_gaps(mirrored: bool) -> None:
    clip = replace(STORY, mirrored=mirrored)
    place = (152, 30) if mirrored else (40, 30)
    assert sign_centre(clip) == place
    renderer = Renderer(clip)
    assert pixels.glyph(renderer.frame(5), place) == SEVEN
    assert pixels.glyph(renderer.frame(2), place) == BLANK
    assert pixels.glyph(renderer.frame(11), place) == BLANK


def test_every_digit_has_its_own_glyph_at_every_time() -> None:
    clip = plan(sign=tuple(Span(4 * digit, 4 * digit + 4, digit) for digit in range(10)))
    frames = list(Renderer(clip).frames())
    shown = [pixels.glyph(frame, (40, 30)) for frame in frames]
    assert [shown[4 * d : 4 * d + 4] for d in range(10)] == [[shown[4 * d]] * 4 for d in range(10)]
    assert len({*shown, BLANK}) == 11


@pytest.mark.parametrize("mirrored", [False, True])
def test_lamp_has_its_colour(mirrored: bool) -> None:
    clip = replace(STORY, mirrored=mirrored)
    place = (40, 30) if mirrored else (152, 30)
    assert lamp_centre(clip) == place
    renderer = Renderer(clip)
    assert [pixels.colour_of(renderer.frame(n), place) for n in (8, 9, 17, 18)] == ["red", "purple", "purple", "blue"]


def test_spark_is_seen_in_its_frames_only() -> None:
    with_sparks, without = Renderer(STORY), Renderer(replace(STORY, sparks=()))
    differing = [n for n in range(FRAMES) if (with_sparks.frame(n) != without.frame(n)).any()]
    assert differing == [14, 15, 28]
    assert pixels.colour_of(with_sparks.frame(14), (24, 180)) == "yellow"
    assert pixels.colour_of(with_sparks.frame(28), (120, 84)) == "white"


def test_jolt_shifts_the_picture_for_one_frame_up_to_noise() -> None:
    still = Renderer(replace(STORY, jolts=()))
    shaken = Renderer(STORY)
    assert [n for n in range(30, 35) if (shaken.frame(n) != still.frame(n)).any()] == [32]
    shifted = np.roll(still.frame(32).astype(int), (-3, 5), axis=(0, 1))
    assert abs(shifted - shaken.frame(32)).max() <= 12  # noise from -6 to 6 in both


def test_backgrounds_change_at_the_cut_only() -> None:
    clip = replace(plan(), backgrounds=(Span(0, 20, 0), Span(20, FRAMES, 1)))
    frames = [frame.astype(int) for frame in Renderer(clip).frames()]
    change = [abs(b - a)[60:].mean() for a, b in itertools.pairwise(frames)]
    assert int(np.argmax(change)) == 19
    assert change[19] > 2 * sorted(change)[-2]


def test_frames_do_not_depend_on_the_order_in_which_they_are_drawn() -> None:
    renderer = Renderer(STORY)
    forward = list(renderer.frames())
    for number in (39, 14, 0):
        np.testing.assert_array_equal(renderer.frame(number), forward[number])


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
@pytest.mark.parametrize("radius", [14, 19])
@pytest.mark.parametrize("centre", [(96, 96), (3, 100), (190, 188), (-20, 84), (211, 90), (40, 212), (500, -300)])
def test_shape_covers_the_pixels_of_plain_geometry(shape: int, radius: int, centre: tuple[int, int]) -> None:
    window, mask = shape_patch(Thing(shape, 0, radius, 0, (Leg(0, 1, centre, centre),)), centre)
    picture = np.zeros((192, 192), bool)
    picture[window] = mask
    np.testing.assert_array_equal(picture, pixels.covered(SHAPES[shape], centre, radius))


@pytest.mark.parametrize("shape", SHAPES)
def test_object_is_drawn_in_its_colour_on_its_pixels_only(shape: str) -> None:
    clip = plan(things=(resting(shape, "blue", (90, 120)),))
    frame, empty = Renderer(clip).frame(3), Renderer(replace(clip, things=())).frame(3)
    mask = pixels.covered(shape, (90, 120), 16)
    np.testing.assert_array_equal(frame[~mask], empty[~mask])
    assert (pixels.nearest_colour(frame[mask]) == COLOURS.index("blue")).all()


def test_later_object_hides_an_earlier_one() -> None:
    below, above = resting("ball", "red", (90, 120)), resting("box", "green", (96, 120))
    first, second = (Renderer(plan(things=pair)).frame(3) for pair in ((below, above), (above, below)))
    assert pixels.colour_of(first, (95, 120)) == "green"
    assert pixels.colour_of(second, (95, 120)) == "red"


def test_light_and_noise_stay_small_between_frames() -> None:
    clip = replace(write_clip("train/5"), things=(), sparks=(), jolts=(), sign=(), backgrounds=(Span(0, 40, 0),))
    clip = replace(clip, lamp=(Span(0, clip.frames, 0),))
    frames = [frame.astype(int) for frame in Renderer(clip).frames()]
    # noise of both frames, light that moves by 3/256, and rounding
    assert all(abs(b - a).max() <= 12 + 255 * 3 // 256 + 1 for a, b in itertools.pairwise(frames))
