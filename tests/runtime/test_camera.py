"""A camera that stalls, breaks, comes back, or is faster than its reader: on a server of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stc_export.spec.errors import UsageError, VideoError
from stc_export.spec.report import CameraReport
from stc_runtime.camera import MOST_WAITING, Camera, CameraOptions
from tests.clips import Clip, write

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"
EVERY = 1000.0
#: What a server does with one connection.
Deed = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """MPEG-TS of 25 frames."""
    path = tmp_path_factory.mktemp("camera") / "a.ts"
    return write(path, Clip("mpeg2video", rate=25)).read_bytes()


@contextmanager
def served(*deeds: Deed) -> Iterator[str]:
    """Serve one connection after the other; yields the address. After the last one nobody listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    accepted: list[socket.socket] = []

    def serve() -> None:
        with listener:
            for deed in deeds:
                accepted.append(listener.accept()[0])
                accepted[-1].recv(4096)
                deed(accepted[-1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{address[1]}/camera"
    finally:
        for connection in accepted:
            connection.close()
        thread.join(10)
        assert not thread.is_alive(), "the camera did not come as often as it was to"


def send(data: bytes) -> Deed:
    """Send all and hang up."""

    def deed(connection: socket.socket) -> None:
        connection.sendall(HEAD + data)
        connection.close()

    return deed


def hang_up(connection: socket.socket) -> None:
    """Answer nothing."""
    connection.close()


def stall(data: bytes) -> Deed:
    """Send all, and then nothing more."""
    return lambda connection: connection.sendall(HEAD + data)


class Clock:
    """A clock that stands still but for what the server adds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float, deed: Deed) -> Deed:
        """Let time pass before a deed."""

        def later(connection: socket.socket) -> None:
            self.now += seconds
            deed(connection)

        return later


def numbered(items: Iterable[tuple[NDArray[np.uint8], float]]) -> list[tuple[int, float]]:
    """Return the number of each frame, which its shade tells, and its time."""
    return [(round((float(picture.mean()) - 8) / 8), time_s) for picture, time_s in items]


def test_camera_that_ends_gives_its_frames_in_order_and_was_never_away(recording: bytes) -> None:
    said: list[str] = []
    with served(send(recording)) as address, Camera(address, EVERY, CameraOptions(), said.append) as camera:
        frames, times = zip(*numbered(camera), strict=True)
        assert len(frames) + camera.report.dropped == 25
        assert (camera.report.gaps, camera.report.away_s, said) == (0, 0.0, [])
    assert list(frames) == sorted(set(frames))
    assert frames[-1] == 24
    assert list(times) == sorted(times)


def test_camera_that_breaks_and_comes_back_goes_on_by_the_clock(recording: bytes) -> None:
    clock = Clock()
    half = recording[: len(recording) // 2 // 188 * 188]
    deeds = [send(half), hang_up, clock.after(3600.0, send(recording)), clock.after(6000.0, hang_up)]
    said: list[str] = []
    with served(*deeds) as address, Camera(address, EVERY, CameraOptions(5000.0), said.append, clock) as camera:
        items = numbered(camera)
        assert (camera.report.gaps, camera.report.away_s) == (1, 3600.0)
    first, second = ([frame for frame, time_s in items if time_s == when] for when in (0.0, 3600.0))
    assert len(first) + len(second) == len(items)
    assert first == sorted(set(first))
    assert second == sorted(set(second))
    assert second[-1] == 24
    assert said == [
        "the camera is away after 0.0 s; it has 5000 s",
        "the camera is back at 3600.0 s, after 3600.0 s",
        "the camera is away after 3600.0 s; it has 5000 s",
    ]


def test_camera_that_falls_silent_is_asked_again(recording: bytes) -> None:
    options = CameraOptions(away_s=60.0, silence_s=1.5)
    with served(stall(recording), send(recording)) as address, Camera(address, EVERY, options) as camera:
        assert any(camera.report.gaps for _ in camera)
        assert camera.report.gaps == 1
        assert camera.report.away_s > 0.0


def test_camera_that_is_silent_ends_at_the_end_of_the_stream(recording: bytes) -> None:
    with served(stall(recording)) as address, Camera(address, EVERY, CameraOptions(silence_s=1.0, end_s=0.2)) as camera:
        assert all(time_s < 0.2 for _, time_s in camera)


def test_camera_that_is_faster_than_its_reader_keeps_the_newest_frames(recording: bytes) -> None:
    with served(send(recording)) as address, Camera(address, EVERY, CameraOptions()) as camera:
        while camera.report.dropped < 25 - MOST_WAITING:
            threading.Event().wait(0.01)
        assert [frame for frame, _ in numbered(camera)] == [21, 22, 23, 24]
        assert camera.report == CameraReport(25 - MOST_WAITING, 0, 0.0)


@pytest.mark.parametrize("away_s", [0.0, 0.3])
def test_camera_that_never_comes_is_an_error_that_names_it(away_s: float) -> None:
    with served() as address:
        pass
    with Camera(address, 1.0, CameraOptions(away_s)) as camera, pytest.raises(VideoError) as caught:
        next(camera)
    assert address in caught.value.problem
    assert caught.value.fix == "Check the address and the network."


def test_camera_that_comes_late_is_waited_for(recording: bytes) -> None:
    deeds, clock = (hang_up, hang_up, send(recording)), Clock()
    with served(*deeds) as address, Camera(address, EVERY, CameraOptions(60.0), clock=clock) as camera:
        assert next(camera)[1] == 0.0
        assert camera.report.gaps == 0


def test_closed_camera_gives_nothing_more(recording: bytes) -> None:
    with served(stall(recording)) as address, Camera(address, EVERY, CameraOptions(silence_s=0.2)) as camera:
        next(camera)
        camera.close()
        assert list(camera) == []


def test_any_failure_of_the_reader_comes_out_where_frames_are_taken(tmp_path: Path) -> None:
    with Camera(tmp_path / "none", 0.0, CameraOptions()) as camera, pytest.raises(UsageError, match="fps is 0"):
        next(camera)
