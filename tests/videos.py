"""Small videos for tests, written with PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_moving_square(path: Path, frames: int = 24, fps: int = 8) -> Path:
    """Write a clip of 96 x 64: a bright square crosses a textured background, one step per frame."""
    background = np.random.default_rng(0).integers(60, 120, (64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(frames):
            picture = background.copy()
            left = (index * 3) % 76
            picture[20:40, left : left + 20] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_pictures(folder: Path, count: int) -> None:
    """Write the frames of a clip of 70 x 70 as pictures: a bright square crosses noise, one step per frame."""
    background = np.random.default_rng(0).integers(0, 200, (70, 70, 3), dtype=np.uint8)
    for index in range(count):
        picture = background.copy()
        picture[20:40, index * 6 : index * 6 + 20] = 255
        Image.fromarray(picture).save(folder / f"{index:03}.png")


def write_sound(path: Path) -> Path:
    """Write half a second of silence without any picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
