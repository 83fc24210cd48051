import re

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from stc_export.spec.errors import FrameError
from stc_export.spec.manifest import PreprocessSpec
from stc_runtime.preprocess import Resizer, check_frame, columns_first

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
#: The resizer repeats the order of passes that Pillow chooses since this version; there is none for Python 3.10.
PILLOW_CHOOSES_THE_ORDER = int(PIL.__version__.split(".")[0]) >= 13
#: Height and width: smaller, larger, equal on one side, landscape, portrait, strips, single pixels.
SIZES = [
    *[(1, 1), (1, 9), (9, 1), (2, 3), (60, 60), (64, 200), (200, 64), (63, 65), (97, 313), (313, 97), (480, 640)],
    *[(640, 480), (640, 360), (300, 20), (20, 300), (3000, 7), (7, 3000), (3000, 1), (1, 3000)],
]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(height: int, width: int) -> np.ndarray:
    """Soft gradients, hard edges, fine stripes and a little grain, as in a photograph."""
    rows, columns = np.linspace(0, 1, height, dtype=np.float32)[:, None], np.linspace(0, 1, width, dtype=np.float32)
    light = 120 + 90 * np.sin(5 * columns + 3 * rows)
    disc = np.float32(80) * ((rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.05)
    stripes = np.float32(40) * ((np.arange(width) // 2 % 2) * (rows > 0.7))
    grain = np.random.default_rng(3).integers(-6, 7, (height, width, 3), dtype=np.int8)
    shades = np.array([1.0, 0.8, 0.6], np.float32)
    return np.clip((light + disc + stripes)[:, :, None] * shades + grain, 0, 255).astype(np.uint8)


def pillow(frame: np.ndarray, size: int, resample: str) -> np.ndarray:
    """Resize with one call of Pillow; one that is too old to choose the order is given the passes one by one."""
    if resample == "nearest" or PILLOW_CHOOSES_THE_ORDER:
        return np.asarray(Image.fromarray(frame).resize((size, size), FILTERS[resample]))
    return two_passes(frame, size, resample, columns_first(*frame.shape[:2], size))


def two_passes(frame: np.ndarray, size: int, resample: str, columns_come_first: bool) -> np.ndarray:
    """Resize one side with Pillow, then the other; every version gives the same."""
    image = Image.fromarray(frame)
    between = (image.width, size) if columns_come_first else (size, image.height)
    return np.asarray(image.resize(between, FILTERS[resample]).resize((size, size), FILTERS[resample]))


# --- Against Pillow


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("size", [64, 1, 27])
def test_resizer_noise_of_many_sizes_equals_pillow_bit_for_bit(resample: str, size: int) -> None:
    for height, width in SIZES:
        frame = noise(height, width)
        got = Resizer(PreprocessSpec(size, resample))(frame)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, pillow(frame, size, resample), err_msg=f"{height}x{width}")


@pytest.mark.parametrize(
    ("resample", "height", "width"),
    [
        *((resample, 1080, 1920) for resample in FILTERS),
        *((resample, 1920, 1080) for resample in FILTERS),
        *[("bicubic", 2160, 3840), ("bicubic", 3840, 2160), ("bicubic", 3840, 1600)],
    ],
)
def test_resizer_large_scene_equals_pillow_bit_for_bit(resample: str, height: int, width: int) -> None:
    frame = scene(height, width)
    np.testing.assert_array_equal(Resizer(PreprocessSpec(384, resample))(frame), pillow(frame, 384, resample))


@pytest.mark.parametrize("resample", ["bicubic", "lanczos"])
def test_resizer_black_and_white_overshoot_is_clipped_as_in_pillow(resample: str) -> None:
    frame = (noise(150, 170) > 127).astype(np.uint8) * 255
    for size in (64, 300):
        np.testing.assert_array_equal(Resizer(PreprocessSpec(size, resample))(frame), pillow(frame, size, resample))


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    size=st.integers(1, 90),
    resample=st.sampled_from(sorted(FILTERS)),
    seed=st.integers(0, 1000),
)
def test_resizer_any_size_equals_pillow_bit_for_bit(
    height: int, width: int, size: int, resample: str, seed: int
) -> None:
    frame = noise(height, width, seed)
    np.testing.assert_array_equal(Resizer(PreprocessSpec(size, resample))(frame), pillow(frame, size, resample))


# --- The order of the passes


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (640, 480, True),  # loses 256 rows and 96 columns
        (1280, 720, True),
        (1920, 1080, True),
        (3840, 2160, False),  # loses 3456 rows and 1776 columns: less than twice as many
        (480, 640, False),
        (2160, 3840, False),
        (1000, 1000, False),
        (404, 394, False),  # exactly twice as many
        (405, 394, True),
        (385, 384, True),
        (384, 100, False),  # keeps its height
        (300, 100, False),  # grows
        (385, 100, True),  # loses one row, gains columns
    ],
)
def test_columns_first_is_true_where_more_than_twice_as_many_rows_are_lost_as_columns(
    height: int, width: int, expected: bool
) -> None:
    assert columns_first(height, width, 384) is expected


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize(("height", "width"), [(84, 74), (85, 74), (66, 65), (67, 65), (65, 63), (64, 63), (400, 232)])
def test_resizer_sizes_on_both_sides_of_the_rule_equal_pillow_and_not_the_other_order(
    height: int, width: int, resample: str
) -> None:
    frame = noise(height, width)
    got = Resizer(PreprocessSpec(64, resample))(frame)
    np.testing.assert_array_equal(got, pillow(frame, 64, resample))
    if height != 64:  # with one pass there is no order
        assert (got != two_passes(frame, 64, resample, not columns_first(height, width, 64))).any()


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (1000, 800), (640, 480), (1280, 720)])
def test_resizer_rows_first_as_in_older_pillow_differs_by_one_to_three_levels_and_only_where_columns_come_first(
    height: int, width: int
) -> None:
    frame = scene(height, width)
    got = Resizer(PreprocessSpec(384, "bicubic"))(frame).astype(int)
    difference = np.abs(got - two_passes(frame, 384, "bicubic", columns_come_first=False)).max()
    assert 1 <= difference <= 3 if columns_first(height, width, 384) else difference == 0


# --- Against the processor of the model family


@pytest.mark.parametrize(("mean", "std"), [(None, None), ([0.5] * 3, [0.5] * 3)])
@pytest.mark.parametrize(
    ("height", "width"),
    [(480, 640), (640, 480), (640, 400), (1280, 720), (700, 60), (60, 700), (384, 384), (385, 384), (100, 90)],
)
def test_resizer_normalised_equals_the_base_patch_of_the_llava_onevision_processor(
    mean: list[float] | None, std: list[float] | None, height: int, width: int
) -> None:
    frame = scene(height, width)
    options = {} if mean is None else {"image_mean": mean, "image_std": std}
    processor = LlavaOnevisionImageProcessorPil(**options)
    base = processor(Image.fromarray(frame), return_tensors="np")["pixel_values"][0][0]
    used_mean, used_std = np.asarray(processor.image_mean), np.asarray(processor.image_std)
    got = (Resizer(PreprocessSpec(384, "bicubic"))(frame) / 255.0 - used_mean) / used_std
    levels = np.abs(got.transpose(2, 0, 1) - base) * used_std[:, None, None] * 255.0
    # The same bytes, but for the float32 of the normalisation; an older Pillow starts with the rows of every frame.
    same_order = PILLOW_CHOOSES_THE_ORDER or not columns_first(height, width, 384)
    assert levels.max() <= (1e-3 if same_order else 3.0 + 1e-3)


# --- State


def test_resizer_frame_of_the_right_size_is_returned_as_it_is() -> None:
    frame = noise(64, 64)
    assert Resizer(PreprocessSpec(64, "bicubic"))(frame) is frame


@pytest.mark.parametrize("resample", FILTERS)
def test_resizer_changing_sizes_give_the_same_as_a_fresh_resizer(resample: str) -> None:
    spec = PreprocessSpec(32, resample)
    resizer = Resizer(spec)
    for seed, (height, width) in enumerate([(50, 70), (70, 50), (50, 70), (32, 32), (50, 32), (32, 50), (70, 50)]):
        frame = noise(height, width, seed)
        np.testing.assert_array_equal(resizer(frame), Resizer(spec)(frame))


@pytest.mark.parametrize("shape", [(50, 70), (50, 32), (32, 50)])
def test_resizer_result_is_not_changed_by_later_frames(shape: tuple[int, int]) -> None:
    resizer = Resizer(PreprocessSpec(32, "bicubic"))
    first = resizer(noise(*shape, 1))
    kept = first.copy()
    resizer(noise(*shape, 2))
    np.testing.assert_array_equal(first, kept)


def test_resizer_frame_is_not_changed() -> None:
    frame = noise(50, 70)
    kept = frame.copy()
    Resizer(PreprocessSpec(32, "lanczos"))(frame)
    np.testing.assert_array_equal(frame, kept)


def test_resizer_view_with_gaps_gives_the_same_as_its_copy() -> None:
    view = noise(100, 140)[::2, ::-2, ::-1]
    resizer = Resizer(PreprocessSpec(32, "bicubic"))
    np.testing.assert_array_equal(resizer(view), resizer(view.copy()))


# --- Frames that are not frames


def test_check_frame_contiguous_frame_is_not_copied() -> None:
    frame = noise(4, 5)
    assert check_frame(frame) is frame


def test_check_frame_view_becomes_a_contiguous_copy() -> None:
    view = noise(4, 6)[:, ::2, ::-1]
    got = check_frame(view)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, view)


@pytest.mark.parametrize(
    ("frame", "named", "advice"),
    [
        (np.zeros((4, 5, 3), np.float32), "float32 [4, 5, 3]", "astype"),
        (np.zeros((4, 5, 3), np.int64), "int64 [4, 5, 3]", "astype"),
        (np.zeros((4, 5), np.uint8), "uint8 [4, 5]", "stack"),
        (np.zeros((3, 4, 5), np.uint8), "uint8 [3, 4, 5]", "transpose"),
        (np.zeros((4, 5, 4), np.uint8), "uint8 [4, 5, 4]", "[:, :, :3]"),
        (np.zeros((1, 4, 5, 3), np.uint8), "uint8 [1, 4, 5, 3]", "one RGB picture"),
        (np.zeros((), np.uint8), "uint8 []", "one RGB picture"),
        (np.zeros((0, 5, 3), np.uint8), "5 pixels wide and 0 high", "Skip"),
        (np.zeros((4, 0, 3), np.uint8), "0 pixels wide and 4 high", "Skip"),
        ([[[1, 2, 3]]], "list", "numpy.asarray"),
        (None, "NoneType", "numpy.asarray"),
        (Image.new("RGB", (5, 4)), "Image", "numpy.asarray"),
    ],
)
def test_check_frame_wrong_frame_raises_frame_error_that_names_what_it_got(
    frame: object, named: str, advice: str
) -> None:
    with pytest.raises(FrameError, match=re.escape(named)) as caught:
        check_frame(frame)
    assert advice in caught.value.fix
    with pytest.raises(FrameError):
        Resizer(PreprocessSpec(32, "bicubic"))(frame)
