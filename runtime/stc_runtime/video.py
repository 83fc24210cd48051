"""Read a video file or a network stream as RGB frames with timestamps, at the rate that a session wants.

Which frames are taken: the sample times are 0, 1/fps, 2/fps, ... after the first frame, and each takes the frame that
is on the screen then, which is the last one whose timestamp is not later. A frame is delivered once, with its own
timestamp, even if it is on the screen at several sample times: asking for more frames per second than there are
gives every frame once. The first frame is always delivered, at 0.0 s.

Headers are not believed: frames are counted by decoding them, and a timestamp that is missing or does not advance is
replaced by the one before plus one frame at the stated average rate.

Damage does not stop a reader. What decodes is delivered, what does not is counted in :attr:`VideoReader.damage`, and
only a video of which nothing decodes is an error.

A part of a video is read as a video of its own: its first frame is what is on the screen at its start, and times count
from there. What lies before is decoded and dropped, since not every file can be entered in the middle.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stc_export.spec.errors import UsageError, VideoError
from stc_export.spec.footage import SILENCE_S
from stc_runtime.source import DECODER_OPTIONS, MOST_PIXELS, import_av, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

#: Rate of a video that states none, or one outside what cameras do.
_DEFAULT_RATE = 25.0
_LARGEST_RATE = 1000.0
#: Share of a sample period by which a timestamp may be early, so that rounding does not cost a frame.
_SLACK = 1e-6
#: A header may promise this much more than there is before it counts as damage: sound often ends after the picture.
_MISSING_LEAST_S = 0.5


@dataclass(frozen=True)
class VideoDamage:
    """What a reader could not deliver.

    Attributes:
        errors: Packets and frames that did not decode cleanly; one damaged place may count several times.
        missing_s: Seconds between the end of the last frame and the end that the header states, once the reader has
            come to its end; 0 when less than half a second, or when the header states none.
    """

    errors: int = 0
    missing_s: float = 0.0

    @property
    def found(self) -> bool:
        """Whether anything is wrong with the video."""
        return self.errors > 0 or self.missing_s > 0.0


def read_frames(
    path: str | Path, fps: float, start_s: float = 0.0, end_s: float = math.inf, silence_s: float = SILENCE_S
) -> VideoReader:
    """Open a video and return its frames as an iterator that is also a context manager.

    Args:
        path: Video file, named pipe or camera (``/dev/video0``); or, as a string, a network address such as
            ``rtsp://camera/stream``.
        fps: Frames to take per second of video; see the module's text for which.
        start_s: Start of the part to read, in seconds after the first frame.
        end_s: End of the part; a frame that begins there is not read.
        silence_s: Longest wait of an address or a pipe for its next data, in seconds; the video ends there.

    Raises:
        UsageError: ``fps`` is not a finite number above 0, or the part is empty.
        VideoError: No such file, a directory, an empty file, not a video, or a file without a picture.
        MissingDependencyError: PyAV is not installed.
    """
    return VideoReader(path, fps, start_s, end_s, silence_s)


@final
class VideoReader:
    """Frames of one video: uint8 [H, W, 3] RGB, upright and contiguous, each with its time in seconds.

    Times start at 0 and strictly increase. H and W may change midway. The file is closed at the end, by
    :meth:`close`, on leaving a ``with`` block, and when the reader is dropped. Made by :func:`read_frames`.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        start_s: float = 0.0,
        end_s: float = math.inf,
        silence_s: float = SILENCE_S,
    ) -> None:
        _check_request(path, fps, start_s, end_s)
        av = import_av()
        self._path = path
        self._start_s = start_s
        container = open_source(av, path, silence_s)
        # Frees the file when the reader is dropped; nothing below may refer to the reader, or that would wait.
        self._closer = weakref.finalize(self, container.close)
        try:
            stream = _picture_stream(av, container, path)
        except VideoError:
            self.close()
            raise
        self._progress = _Progress(_stated_length(av, container, stream))
        part = _part(_timed(av, container, stream, self._progress), start_s, end_s)
        self._frames = _rgb_frames(av, _sampled(part, fps), self._progress)

    def __iter__(self) -> VideoReader:
        """Return the reader itself: a video is read once."""
        return self

    def __next__(self) -> tuple[NDArray[np.uint8], float]:
        """Return the next frame, uint8 [H, W, 3], and its time in seconds.

        Raises:
            StopIteration: At the end, and after :meth:`close`.
            VideoError: At the end of a video of which no frame could be decoded, or which ends before the part.
        """
        if not self._closer.alive:
            raise StopIteration
        item = next(self._frames, None)
        if item is not None:
            return item
        self.close()
        if self._progress.delivered == 0 and 0.0 < self._progress.end_s <= self._start_s:
            raise VideoError(
                f'Video "{self._path}" ends after {self._progress.end_s:g} s, '
                f"expected frames from {self._start_s:g} s on.",
                "Check that it is the whole video.",
            )
        if self._progress.delivered == 0:
            raise VideoError(
                f'Video "{self._path}" has a picture track, but no frame of it could be decoded.',
                "Play it to see whether it is damaged, and whether a frame has more than "
                f"{MOST_PIXELS:,} pixels, and copy or record it again.",
            )
        raise StopIteration

    def __enter__(self) -> VideoReader:
        """Return the reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the video."""
        self.close()

    def close(self) -> None:
        """Close the video; iteration then stops. A second call does nothing."""
        self._closer()

    @property
    def damage(self) -> VideoDamage:
        """What could not be delivered so far; complete once the iteration has ended."""
        return self._progress.damage()


class _Progress:
    """What was read so far; shared by the reader and its generators."""

    def __init__(self, stated_s: float | None) -> None:
        self.errors = 0
        self.delivered = 0
        self.end_s = 0.0
        self.ended = False
        self._stated_s = stated_s

    def damage(self) -> VideoDamage:
        missing = self._stated_s - self.end_s if self.ended and self._stated_s is not None else 0.0
        return VideoDamage(self.errors, missing if missing >= _MISSING_LEAST_S else 0.0)


@dataclass(frozen=True)
class _Timed:
    """A decoded frame and the seconds from which and until which it is on the screen."""

    picture: Any
    start_s: float
    end_s: float


def _check_request(path: str | Path, fps: float, start_s: float, end_s: float) -> None:
    if not (math.isfinite(fps) and fps > 0):
        raise UsageError(
            f"fps is {fps:g}, expected a finite number above 0.",
            "Set fps to the frames to take per second of video, for example 1.",
        )
    if not 0.0 <= start_s < end_s:
        raise UsageError(
            f'The part of "{path}" is {start_s:g} s to {end_s:g} s, expected a start from 0 s and a later end.',
            "Name an end after the start.",
        )


def _picture_stream(av: Any, container: Any, path: str | Path) -> Any:
    streams = [stream for stream in container.streams.video if not _is_cover(av, stream)]
    if not streams:
        raise VideoError(
            f'Video "{path}" has no picture track, expected at least one.',
            "Choose a file with a picture; files with sound alone cannot be used.",
        )
    if streams[0].codec_context is None:
        raise VideoError(
            f'Video "{path}" is coded in a way that the installed PyAV cannot decode.',
            "Convert it to H.264 first.",
        )
    streams[0].codec_context.options = DECODER_OPTIONS
    # Frame and slice threads: the default decodes on one core.
    streams[0].thread_type = "AUTO"
    return streams[0]


def _is_cover(av: Any, stream: Any) -> bool:
    """Whether a picture track is only the cover of a piece of music (PyAV tells since 14.2)."""
    disposition = getattr(stream, "disposition", None)
    return disposition is not None and bool(disposition & av.stream.Disposition.attached_pic)


def _stated_length(av: Any, container: Any, stream: Any) -> float | None:
    """Return the seconds that the header promises."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _decoded(av: Any, container: Any, stream: Any, progress: _Progress) -> Iterator[Any]:
    """Decode to the end; what fails is counted and left out."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            # The container cannot be followed further; the decoder still holds finished frames.
            progress.errors += 1
            yield from _checked(av, stream.decode, progress)
            return
        if packet is None:
            return
        progress.errors += bool(packet.is_corrupt)
        yield from _checked(av, packet.decode, progress)


def _checked(av: Any, decode: Callable[[], list[Any]], progress: _Progress) -> list[Any]:
    try:
        frames = decode()
    except av.error.EOFError:  # a decoder that was emptied already
        return []
    except av.error.FFmpegError:
        progress.errors += 1
        return []
    progress.errors += sum(bool(frame.is_corrupt) for frame in frames)
    return frames


def _timed(av: Any, container: Any, stream: Any, progress: _Progress) -> Iterator[_Timed]:
    """Give every decoded frame a time that starts at 0 and strictly increases."""
    frame_s = _frame_length(stream)
    origin: float | None = None  # stamp of time 0, once a frame has a stamp
    last: float | None = None
    for frame in _decoded(av, container, stream, progress):
        following = 0.0 if last is None else last + frame_s
        base = frame.time_base or stream.time_base  # what a decoder still held when the container broke has none
        stamp = float(frame.pts * base) if base and frame.pts is not None else None
        if stamp is not None and origin is None:
            origin = stamp - following
        time_s = following if stamp is None or origin is None else stamp - origin
        if last is not None and time_s <= last:
            time_s = following
        ticks = getattr(frame, "duration", None)  # since PyAV 15
        length = float(ticks * base) if ticks and base else frame_s
        last, progress.end_s = time_s, time_s + length
        yield _Timed(frame, time_s, time_s + length)
    progress.ended = True


def _frame_length(stream: Any) -> float:
    """Return the seconds per frame at the stated average rate."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= _LARGEST_RATE:
            return 1.0 / float(rate)
    return 1.0 / _DEFAULT_RATE


def _part(frames: Iterable[_Timed], start_s: float, end_s: float) -> Iterator[_Timed]:
    """Cut a part out, with times from its start; the frame that is on the screen there comes first."""
    before: _Timed | None = None
    for frame in frames:
        if frame.start_s >= end_s:
            break
        if before is not None and frame.start_s > start_s:  # it was on the screen until now, whatever its length says
            yield _Timed(before.picture, 0.0, frame.start_s - start_s)
        before = frame if frame.start_s < start_s else None
        if before is None:
            yield _Timed(frame.picture, frame.start_s - start_s, min(frame.end_s, end_s) - start_s)
    if before is not None and before.end_s > start_s:
        yield _Timed(before.picture, 0.0, min(before.end_s, end_s) - start_s)


def _sampled(frames: Iterable[_Timed], fps: float) -> Iterator[_Timed]:
    """Keep the frames that are on the screen at a sample time, and the first."""
    held: _Timed | None = None
    kept_first = False
    for frame in frames:
        # A frame's end is known for certain only when the next one begins.
        if held is not None and (not kept_first or _has_sample(held.start_s, frame.start_s, fps)):
            kept_first = True
            yield held
        held = frame
    if held is not None and (not kept_first or _has_sample(held.start_s, held.end_s, fps)):
        yield held


def _has_sample(start_s: float, end_s: float, fps: float) -> bool:
    """Whether a multiple of 1/fps lies in [start, end)."""
    if (end_s - start_s) * fps >= 1.0:
        return True
    return math.ceil(start_s * fps - _SLACK) < math.ceil(end_s * fps - _SLACK)


def _rgb_frames(av: Any, frames: Iterable[_Timed], progress: _Progress) -> Iterator[tuple[NDArray[np.uint8], float]]:
    for frame in frames:
        try:
            picture = frame.picture.to_ndarray(format="rgb24")
        except (av.error.FFmpegError, ValueError):  # a pixel format without a conversion
            progress.errors += 1
            continue
        progress.delivered += 1
        yield np.ascontiguousarray(_upright(picture, frame.picture)), frame.start_s


def _upright(picture: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """Turn and mirror a picture as the display matrix of its frame says; quarter turns only.

    The matrix takes column p and row q of the picture to column a p + c q and row b p + d q of the screen.
    """
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None or len(bytes(stored)) != 36:
        return picture
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(stored), np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture = picture.transpose(1, 0, 2)
        across, down = c, b
    else:
        across, down = a, d
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
