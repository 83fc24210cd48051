import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from stc_export.spec.errors import FrameError
from stc_export.spec.manifest import PreprocessSpec
from stc_runtime.preprocess import Resizer, check_frame

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
#: Height and width: smaller, larger, equal on one side, landscape, portrait, strips, single pixels.
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (60, 60), (64, 200), (200, 64), (63, 65), (97, 313), (313, 97), (640, 480)]


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
    """Resize with Pillow, rows first: Pillow 13 by itself would start with the columns of a tall frame."""
    image = Image.fromarray(frame)
    if resample != "nearest":
        image = image.resize((size, image.height), FILTERS[resample])
    return np.asarray(image.resize((size, size), FILTERS[resample]))


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
    [*((resample, 1080, 1920) for resample in FILTERS), ("bicubic", 1920, 1080), ("bicubic", 2160, 3840)],
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


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (640, 480), (1280, 720)])
def test_resizer_one_call_of_pillow_differs_by_few_levels_and_only_for_tall_frames(height: int, width: int) -> None:
    frame = scene(height, width)
    got = Resizer(PreprocessSpec(384, "bicubic"))(frame).astype(int)
    whole = np.asarray(Image.fromarray(frame).resize((384, 384), FILTERS["bicubic"]))
    assert np.abs(got - whole).max() <= (3 if height > width else 0)


# --- Against the processor of the model family


@pytest.mark.parametrize(("mean", "std"), [(None, None), ([0.5] * 3, [0.5] * 3)])
@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 400), (384, 384), (100, 90)])
def test_resizer_normalised_equals_the_base_patch_of_the_llava_onevision_processor(
    mean: list[float] | None, std: list[float] | None, height: int, width: int
) -> None:
    frame = scene(height, width)
    options = {} if mean is None else {"image_mean": mean, "image_std": std}
    processor = LlavaOnevisionImageProcessorPil(**options)
    base = processor(Image.fromarray(frame), return_tensors="np")["pixel_values"][0][0]
    used_mean, used_std = np.asarray(processor.image_mean), np.asarray(processor.image_std)
    got = (Resizer(PreprocessSpec(384, "bicubic"))(frame) / 255.0 - used_mean) / used_std
    difference = np.abs(got.transpose(2, 0, 1) - base) * used_std[:, None, None] * 255.0
    # In levels of 0..255. The processor leaves the order of the passes to Pillow, see the module.
    assert difference.max() <= (1.0 + 1e-3 if height <= width else 3.0 + 1e-3)
    assert difference.mean() <= (1e-3 if height <= width else 0.3)


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
