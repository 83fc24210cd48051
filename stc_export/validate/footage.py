"""Where the frames of a clip come from: a part of a video file, or a folder of numbered pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.spec.errors import StcError, VideoError
from stc_runtime.video import VideoReader, read_frames

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: A video of which more than this share of the stated length is missing is not the video that was asked about.
_MOST_MISSING = 0.1


@dataclass(frozen=True)
class VideoFile:
    """A part of a video; see :func:`stc_runtime.video.read_frames` for which frames are taken.

    Attributes:
        path: The file.
        fps: Frames to take per second.
        start_s: Start of the part in seconds; times count from there.
        end_s: Its end.
        most_missing: Share of the stated length that may be missing.
    """

    path: Path
    fps: float
    start_s: float = 0.0
    end_s: float = math.inf
    most_missing: float = _MOST_MISSING

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield frames, uint8 [H, W, 3] RGB, each with its time in seconds.

        Raises:
            VideoError: The file is missing, is no video, or is cut off.
        """
        last_s = 0.0
        with _open(self.path, self.fps, self.start_s, self.end_s) as reader:
            for frame, seconds in reader:
                last_s = self.start_s + seconds
                yield frame, seconds
            missing_s = reader.damage.missing_s
        if missing_s > self.most_missing * (last_s + missing_s):
            raise VideoError(
                f'Video "{self.path}" lacks its last {missing_s:.1f} s.', "Copy it again; the file is cut off."
            )


@dataclass(frozen=True)
class PictureFolder:
    """A part of a video that is stored as pictures ``00001.jpg``, ``00002.jpg``, ... of one rate.

    Attributes:
        path: The folder.
        rate: Pictures per second.
        fps: Frames to take per second.
        start_s: Start of the part in seconds; times count from there.
        end_s: Its end.
    """

    path: Path
    rate: float
    fps: float
    start_s: float = 0.0
    end_s: float = math.inf

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield pictures, uint8 [H, W, 3] RGB, each with its time in seconds.

        Raises:
            VideoError: The folder or a picture is missing or cannot be read, or the part has no picture.
        """
        pictures = sorted(self.path.glob("*.jpg")) if self.path.is_dir() else []
        first = math.floor(self.start_s * self.rate)
        last = min(len(pictures), math.ceil(self.end_s * self.rate) if math.isfinite(self.end_s) else len(pictures))
        if first >= last:
            raise VideoError(
                f'"{self.path}" has {len(pictures)} pictures, expected some from {self.start_s:g} s on.',
                "Unpack all pictures of the benchmark there.",
            )
        step = max(self.rate / self.fps, 1.0)
        for number in range(math.ceil((last - first) / step)):
            index = first + math.floor(number * step)
            with _open(pictures[index], 1.0) as reader:
                yield next(reader)[0], max(index / self.rate - self.start_s, 0.0)


def _open(path: Path, fps: float, start_s: float = 0.0, end_s: float = math.inf) -> VideoReader:
    try:
        return read_frames(path, fps, start_s, end_s)
    except StcError:
        raise
    except (OSError, ValueError) as error:  # a name that no file can have, or no permission
        raise VideoError(f'Video "{path}" cannot be read ({error}).', "Check its name and permissions.") from error
