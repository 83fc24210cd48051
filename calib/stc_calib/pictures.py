"""Real pictures to feed graphs with. Noise would not do: its tokens are all alike, and errors hide in the average."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray


def real_frames(size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return two frames of one scene, uint8 [size, size, 3]: a photograph, and the same with a part that moved.

    The picture is in the public domain (see ``data/README.md``). In the second frame a block of a ninth of the area has
    moved by a few pixels, and every pixel carries a little sensor noise from a fixed seed.
    """
    from PIL import Image

    with resources.files("stc_calib").joinpath("data/grace_hopper.jpg").open("rb") as file:
        first = np.array(Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(0).normal(0.0, 1.5, first.shape)
    third, shift = size // 3, max(1, size // 24)
    second = first.astype(np.float64) + noise
    second[third : 2 * third, third + shift : 2 * third + shift] = first[third : 2 * third, third : 2 * third]
    return first, np.clip(np.rint(second), 0, 255).astype(np.uint8)
