"""Calibration data: which frames of a folder are looked at, in which order, and a digest of them.

A folder may hold videos and pictures, in folders of its own as well. Each video is a clip, and so are the pictures of
one folder, in the order of their names, a second apart: frames of a video that were saved as pictures are one again.
What is taken depends on names and contents only. Reading is apart from what is done with the frames.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import UsageError, VideoError
from stc_runtime.video import read_frames

#: A frame uint8 [H, W, 3] and its time in seconds.
Timed = tuple[NDArray[np.uint8], float]

#: Frames that are looked at, and the least that a range can be read from.
FRAMES, LEAST_FRAMES = 64, 8
#: The least that a clip gives, if it has so many: parts of frames are reused between neighbours only.
_PER_CLIP = 8
_FPS = 1.0
_PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
_FIX = "Give a folder with videos or pictures, or one video, of what the model will see."


@dataclass(frozen=True)
class Clip:
    """Frames in the order of time.

    Attributes:
        name: Where they come from, below the data's own place.
        frames: Reads them from the start.
    """

    name: str
    frames: Callable[[], Iterable[Timed]]


@dataclass(frozen=True)
class CalibrationData:
    """What a model is shown.

    Attributes:
        source: What the user calls it.
        clips: At least one.
    """

    source: str
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class DataDigest:
    """What was seen of some data.

    Attributes:
        frames: How many frames.
        sha256: Digest of their sizes and pixels, clip after clip.
    """

    frames: int
    sha256: str


class Seen:
    """Takes in frames and tells the digest of all so far."""

    def __init__(self) -> None:
        self._frames, self._digest = 0, hashlib.sha256()

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Take in a frame."""
        self._frames += 1
        self._digest.update(repr(frame.shape).encode())
        self._digest.update(np.ascontiguousarray(frame).data)

    @property
    def digest(self) -> DataDigest:
        """Of all frames so far."""
        return DataDigest(self._frames, self._digest.hexdigest())


def digest_data(data: CalibrationData) -> DataDigest:
    """Read all frames once.

    Raises:
        UsageError: There are too few.
        VideoError: One cannot be read.
    """
    seen = Seen()
    for clip in data.clips:
        for frame, _ in clip.frames():
            seen.add(frame)
    if seen.digest.frames < LEAST_FRAMES:
        raise UsageError(
            f'"{data.source}" has {seen.digest.frames} frames, one a second; at least {LEAST_FRAMES} are needed.',
            "Add longer videos, or more pictures.",
        )
    return seen.digest


def read_data(path: Path, frames: int = FRAMES) -> CalibrationData:
    """Choose what is looked at of a folder, or of one video.

    Args:
        path: The folder or the video.
        frames: How many frames at most, shared by the clips.

    Raises:
        UsageError: There is nothing, or nothing that can be looked at.
    """
    found = [path] if path.is_file() else _files(path)
    videos = [file for file in found if file.suffix.lower() in _VIDEOS]
    pictures = [file for file in found if file.suffix.lower() in _PICTURES]
    groups = [tuple(group) for _, group in itertools.groupby(pictures, lambda file: file.parent)]
    chosen = _spread([*((video,) for video in videos), *groups], max(1, frames // _PER_CLIP))
    if not chosen:
        raise UsageError(f'"{path}" has no videos and no pictures.', _FIX)
    share = frames // len(chosen)
    return CalibrationData(str(path), tuple(_clip(path, files, share) for files in chosen))


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            raise UsageError(f'There is no calibration data "{path}".', _FIX)
        return sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: (file.parent, file.name))
    except OSError as error:
        raise UsageError(f'"{path}" cannot be read ({error.strerror}).', "Check its permissions.") from error


def _spread(groups: list[tuple[Path, ...]], most: int) -> list[tuple[Path, ...]]:
    """Return at most so many groups, at even distances."""
    count = min(len(groups), most)
    return [groups[place * len(groups) // count] for place in range(count)]


def _clip(root: Path, files: tuple[Path, ...], most: int) -> Clip:
    name = files[0].relative_to(root.parent if root.is_file() else root).as_posix()
    if files[0].suffix.lower() in _PICTURES:
        return Clip(name, lambda: _pictures(files[:most]))
    return Clip(name, lambda: _video(files[0], most))


def _video(path: Path, most: int) -> Iterator[Timed]:
    with read_frames(path, _FPS) as reader:
        yield from itertools.islice(reader, most)


def _pictures(files: tuple[Path, ...]) -> Iterator[Timed]:
    for second, file in enumerate(files):
        yield _picture(file), second / _FPS


def _picture(path: Path) -> NDArray[np.uint8]:
    """Read a picture upright, as RGB."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise VideoError(f'Picture "{path}" cannot be read ({reason}).', "Remove it, or copy it again.") from error
