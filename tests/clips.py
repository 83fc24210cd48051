"""Clips of any codec, container and timing for tests of readers, written with PyAV."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FAST_START = {"movflags": "faststart"}


@dataclass(frozen=True)
class Clip:
    """How a test video is written: frame i is one shade of grey that tells i."""

    codec: str = "mpeg4"
    rate: int = 10
    frames: int = 25
    width: int = 64
    height: int = 48
    format: str = "yuv420p"
    stamps_ms: tuple[int, ...] | None = None
    container: str | None = None
    options: dict[str, str] = field(default_factory=dict)


def write(path: Path, clip: Clip, pictures: list[np.ndarray] | None = None) -> Path:
    """Write a clip: the given pictures, or as many grey ones as it has frames."""
    with av.open(str(path), "w", format=clip.container, options=clip.options) as container:
        stream = container.add_stream(clip.codec, rate=clip.rate)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.format
        if clip.stamps_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        if pictures is None:
            pictures = [grey(i, clip) for i in range(len(clip.stamps_ms or range(clip.frames)))]
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=clip.format)
            frame.pts = clip.stamps_ms[i] if clip.stamps_ms else i
            frame.time_base = Fraction(1, 1000) if clip.stamps_ms else Fraction(1, clip.rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def grey(index: int, clip: Clip) -> np.ndarray:
    """Return the frame whose shade is its number."""
    return np.full((clip.height, clip.width, 3), 8 + 8 * index, np.uint8)


def noise(count: int, clip: Clip) -> list[np.ndarray]:
    """Return frames that no codec makes small."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (clip.height, clip.width, 3), dtype=np.uint8) for _ in range(count)]
