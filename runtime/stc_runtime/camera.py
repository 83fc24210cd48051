"""A camera as a source of frames: it may stall, go away and come back, and sends on while a frame is processed.

A thread reads it. Times are those of the clock when a frame arrives, from the first frame on, so they go on while the
camera is away. Few frames wait at once: when one comes too many, the oldest is dropped and counted.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from stc_export.spec.errors import VideoError
from stc_export.spec.footage import SILENCE_S
from stc_export.spec.report import CameraReport
from stc_runtime.source import import_av
from stc_runtime.video import VideoDamage, read_frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

#: Most frames that wait to be taken.
MOST_WAITING = 4
#: Pause before the next attempt to reach a camera, in seconds.
_PAUSE_S = 0.2
#: Longest wait in :meth:`Camera.close` for a thread that may be waiting for the camera.
_JOIN_S = 1.0


@dataclass(frozen=True)
class CameraOptions:
    """How a camera is followed.

    Attributes:
        away_s: Longest time in seconds that it may be away, at the start and later. 0: its first end is the end.
        silence_s: Time without data after which it counts as away.
        end_s: Time of the stream at which it ends, even if nothing comes.
    """

    away_s: float = 0.0
    silence_s: float = SILENCE_S
    end_s: float = math.inf


@final
class Camera:
    """Frames of a camera, uint8 [H, W, 3] RGB, each with the seconds since the first. An iterator; to be closed."""

    def __init__(
        self,
        path: str | Path,
        fps: float,
        options: CameraOptions,
        say: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start to read.

        Args:
            path: What :func:`stc_runtime.video.read_frames` takes.
            fps: Frames to take per second of what a connection sends.
            options: How it is followed.
            say: Receiver of a line when it goes away and when it is back; called in the thread that reads.
            clock: Seconds that never go back.

        Raises:
            MissingDependencyError: PyAV is not installed.
        """
        import_av()
        self._path, self._fps, self._options, self._say, self._clock = path, fps, options, say, clock
        self._news = threading.Condition()
        self._waiting: deque[tuple[NDArray[np.uint8], float]] = deque()
        self._stop = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        self._first: float | None = None  # the clock at the first frame
        self._last_s = 0.0
        self._frames = self._dropped = self._gaps = self._errors = 0
        self._away_s = 0.0
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def __iter__(self) -> Camera:
        """Return the camera itself."""
        return self

    def __next__(self) -> tuple[NDArray[np.uint8], float]:
        """Wait for the next frame, and return it with its time.

        Raises:
            StopIteration: The camera has ended or was away for too long, it is closed, or the end was reached.
            VideoError: No frame ever came.
        """
        with self._news:
            while not self._waiting and not self._ended:
                left = self._left()
                if left <= 0.0:
                    raise StopIteration
                self._news.wait(min(left, 1.0))
            if self._waiting and self._waiting[0][1] < self._options.end_s:
                return self._waiting.popleft()
        if self._error is not None and not self._waiting:
            raise self._error
        raise StopIteration

    def __enter__(self) -> Camera:
        """Return the camera itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Stop reading. A thread that waits for the camera ends when that wait does."""
        self._stop.set()
        self._thread.join(_JOIN_S)
        with self._news:
            self._waiting.clear()
            self._ended = True

    @property
    def report(self) -> CameraReport:
        """What happened so far."""
        with self._news:
            return CameraReport(self._dropped, self._gaps, round(self._away_s, 3))

    @property
    def damage(self) -> VideoDamage:
        """What did not decode so far; a connection that broke may count as one."""
        return VideoDamage(self._errors)

    def _left(self) -> float:
        return math.inf if self._first is None else self._options.end_s - (self._clock() - self._first)

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # raised where the frames are taken
            self._error = error
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _follow(self) -> None:
        """Read one connection after the other until the camera is away for too long."""
        since = self._clock()
        while not self._stop.is_set():
            before = self._frames
            error = self._read_connection()
            if self._frames > before:
                since = self._clock()
                if self._options.away_s > 0.0:
                    self._say(f"the camera is away after {self._last_s:.1f} s; it has {self._options.away_s:g} s")
            if self._clock() - since >= self._options.away_s:
                if error is not None and self._frames == 0:
                    raise error
                return
            self._stop.wait(_PAUSE_S)

    def _read_connection(self) -> VideoError | None:
        """Read until the camera closes the connection, breaks it or is silent; return why nothing came at all."""
        new = True
        try:
            with read_frames(self._path, self._fps, silence_s=self._options.silence_s) as reader:
                for frame, _ in reader:
                    if self._stop.is_set():
                        break
                    self._take(frame, new=new)
                    new = False
                self._errors += reader.damage.errors
        except VideoError as error:
            return error
        return None

    def _take(self, frame: NDArray[np.uint8], *, new: bool) -> None:
        now = self._clock()
        with self._news:
            if self._first is None:
                self._first = now
            time_s = now - self._first
            gap_s = time_s - self._last_s
            returned = new and self._frames > 0
            self._gaps += returned
            self._away_s += gap_s if returned else 0.0
            if len(self._waiting) == MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((frame, time_s))
            self._last_s = time_s
            self._frames += 1
            self._news.notify_all()
        if returned:
            self._say(f"the camera is back at {time_s:.1f} s, after {gap_s:.1f} s")
