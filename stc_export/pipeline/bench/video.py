"""Frames that a benchmark runs over: those of a video, or a generated scene that moves and has noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import VideoError
from stc_runtime.video import read_frames

#: Frames per second of video, as ``run`` takes them by default.
_FPS = 1.0
_HEIGHT, _WIDTH, _SQUARE = 360, 640, 96
#: Standard deviation of the noise of a camera in daylight, in steps of 8 bits.
_NOISE = 2.0


@dataclass(frozen=True, eq=False)
class Scene:
    """Frames in order.

    Attributes:
        source: Name of the video's file, or ``generated``.
        frames: uint8 [H, W, 3] each.
        times_s: Their times in seconds.
    """

    source: str
    frames: tuple[NDArray[np.uint8], ...]
    times_s: tuple[float, ...]


def read_scene(video: Path | None, count: int) -> Scene:
    """Return up to ``count`` frames of a video at one per second, or exactly so many generated ones.

    Raises:
        VideoError: The video cannot be read, or has fewer than two such frames.
        MissingDependencyError: The package that reads videos is not installed.
    """
    if video is None:
        frames = tuple(generated_frames(count))
        return Scene("generated", frames, tuple(index / _FPS for index in range(count)))
    with read_frames(video, _FPS) as reader:
        taken = list(islice(reader, count))
    if len(taken) < 2:
        raise VideoError(
            f'Video "{video}" has {len(taken)} frame at one per second, a benchmark needs at least 2.',
            "Use a longer video, or leave it out to measure on a generated one.",
        )
    return Scene(video.name, tuple(frame for frame, _ in taken), tuple(time_s for _, time_s in taken))


def generated_frames(count: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames [360, 640, 3]: a textured square moves over a still background, with noise; always the same."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    waves = [np.sin(rows / (17 + 9 * c)) + np.cos(columns / (23 + 7 * c)) for c in range(3)]
    background = 128.0 + 40.0 * np.stack(waves, axis=-1)
    texture = random.uniform(0.0, 255.0, (_SQUARE // 8, _SQUARE // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    for index in range(count):
        frame = background.copy()
        left, top = 24 * index % (_WIDTH - _SQUARE), 16 * index % (_HEIGHT - _SQUARE)
        frame[top : top + _SQUARE, left : left + _SQUARE] = texture
        frame += random.normal(0.0, _NOISE, frame.shape)
        yield np.clip(np.rint(frame), 0.0, 255.0).astype(np.uint8)
