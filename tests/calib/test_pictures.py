"""The picture that parity checks feed."""

from __future__ import annotations

import numpy as np
import pytest

from stc_calib.pictures import real_frames


@pytest.mark.parametrize("size", [1, 3, 70, 224, 384])
def test_frames_are_square_rgb_and_the_same_each_time(size: int) -> None:
    frames = real_frames(size)
    assert [(frame.shape, frame.dtype) for frame in frames] == [((size, size, 3), np.uint8)] * 2
    for frame, again in zip(frames, real_frames(size), strict=True):
        np.testing.assert_array_equal(frame, again)


def test_first_frame_is_a_photograph_not_noise_and_not_flat() -> None:
    picture = real_frames(224)[0].astype(np.float64)
    assert picture.std() > 30
    neighbours = np.abs(np.diff(picture, axis=1)).mean()
    assert neighbours < picture.std() / 4


def test_second_frame_differs_much_where_a_block_moved_and_little_elsewhere() -> None:
    first, second = (frame.astype(np.float64) for frame in real_frames(384))
    difference = np.abs(second - first).mean(axis=2)
    moved = np.zeros((384, 384), bool)
    moved[128:256, 144:272] = True
    assert difference[~moved].max() < 10  # noise of deviation 1.5
    assert difference[moved].mean() > 3 * difference[~moved].mean()
    assert 0.5 < difference[~moved].mean() < 2
