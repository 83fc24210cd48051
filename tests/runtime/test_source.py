"""What hostile videos give: the right frames, or one clear error. Never a hang, never memory without a limit."""

from __future__ import annotations

import os
import resource
import struct
import threading
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.spec.errors import VideoError
from stc_export.spec.footage import SILENCE_S
from stc_runtime.source import MOST_PIXELS
from stc_runtime.video import read_frames
from tests.clips import FAST_START, Clip, noise, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def png(width: int, height: int) -> bytes:
    """Return a black picture of one bit per pixel: a few kilobytes, whatever its size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compressobj()
    rows = b"".join(pixels.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + pixels.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def stamped(path: Path, stamps: list[int]) -> Path:
    """Write one picture per stamp in milliseconds, in this order, whatever the stamps say."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index, stamp in enumerate(stamps):
            picture = np.full((48, 64, 3), 8 + 8 * index, np.uint8)
            (packet,) = stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            packet.pts = packet.dts = stamp
            container.mux(packet)
    return path


def numbers(path: Path | str, fps: float = 1000.0, silence_s: float = SILENCE_S) -> list[int]:
    """Return the numbers of the frames, which their shades tell, after checking that their times increase."""
    items = list(read_frames(path, fps, silence_s=silence_s))
    assert all(later > earlier for (_, earlier), (_, later) in pairwise(items))
    return [round((float(picture.mean()) - 8) / 8) for picture, _ in items]


def times_or_error(path: Path) -> list[float] | str:
    """Return the times of the frames, which increase, or the error's first sentence."""
    try:
        times = [time_s for _, time_s in read_frames(path, 1000)]
    except VideoError as error:
        return error.problem
    assert all(later > earlier for earlier, later in pairwise(times))
    return times


def names_it(outcome: list[float] | str, path: Path) -> bool:
    """Whether an error, if it is one, says which file it is about."""
    return isinstance(outcome, list) or str(path) in outcome


#: Name: what is written, and the frames that come out of it.
GOOD: dict[str, tuple[Callable[[Path], Path], list[int]]] = {
    "one frame": (lambda p: write(p / "a.mkv", Clip(frames=1)), [0]),
    "60 frames per second": (lambda p: write(p / "a.mp4", Clip(rate=60, frames=20)), list(range(20))),
    "portrait": (lambda p: write(p / "a.mp4", Clip(width=48, height=96, frames=3)), [0, 1, 2]),
    "4K": (lambda p: write(p / "a.avi", Clip("mjpeg", width=3840, height=2160, frames=2, format="yuvj420p")), [0, 1]),
    "10 bits": (lambda p: write(p / "a.mkv", Clip("ffv1", format="yuv420p10le", frames=3)), [0, 1, 2]),
    "16 bits of grey": (lambda p: write(p / "a.mkv", Clip("ffv1", format="gray16le", frames=3)), [0, 1, 2]),
    "grey with alpha": (lambda p: write(p / "a.mkv", Clip("ffv1", format="ya8", frames=3)), [0, 1, 2]),
    "colour with alpha": (lambda p: write(p / "a.mkv", Clip("ffv1", format="rgba64le", frames=3)), [0, 1, 2]),
    "planes with alpha": (lambda p: write(p / "a.mkv", Clip("ffv1", format="yuva420p", frames=3)), [0, 1, 2]),
    "a picture": (lambda p: write(p / "a.png", Clip("png", format="rgb24", frames=1)), [0]),
    "times repeat": (lambda p: stamped(p / "a.mkv", [0, 100, 100, 100, 200]), [0, 1, 2, 3, 4]),
    "times jump ahead": (lambda p: stamped(p / "a.mkv", [0, 100, 10**6, 10**6 + 100]), [0, 1, 2, 3]),
}


@pytest.mark.parametrize("case", list(GOOD.values()), ids=list(GOOD))
def test_read_frames_odd_video_gives_its_frames(tmp_path: Path, case: tuple[Callable[[Path], Path], list[int]]) -> None:
    make, expected = case
    assert numbers(make(tmp_path)) == expected


def test_read_frames_times_that_run_backwards_give_increasing_times(tmp_path: Path) -> None:
    """Two recordings in one file, the second of which begins at an earlier time."""
    parts = [write(tmp_path / f"{i}.ts", Clip("mpeg2video", rate=25, frames=n)) for i, n in enumerate((12, 5))]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert numbers(tmp_path / "both.ts") == [*range(12), *range(5)]


def test_read_frames_interlaced_video_gives_whole_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 + 8 * index, np.uint8))))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert numbers(path) == [0, 1, 2, 3]


#: Name of what is read, beside what is written under it, and what the error says.
BAD: dict[str, tuple[str, bytes | None, str]] = {
    "no frames": ("a.avi", b"", "is empty"),
    "a name that is too long": ("x" * 300, None, "cannot be read (File name too long)"),
    "a name with a zero in it": ("a\0b", None, "does not exist"),
    "below a file": ("a.mp4/b.mp4", None, "does not exist"),
    "a device that is no camera": ("/dev/null", None, "cannot be read as a video"),
    "a device that never ends": ("/dev/zero", None, "cannot be read as a video"),
    "a small file of a large picture": ("a.png", png(9000, 9000), "no frame of it could be decoded"),
}


@pytest.mark.parametrize("case", list(BAD.values()), ids=list(BAD))
def test_read_frames_no_video_names_it_and_the_next_step(tmp_path: Path, case: tuple[str, bytes | None, str]) -> None:
    name, content, problem = case
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(VideoError) as caught:
        numbers(tmp_path / name)
    assert problem in caught.value.problem
    assert name in caught.value.problem
    assert caught.value.fix


def test_read_frames_large_picture_takes_no_memory_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(16_000, 16_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match=f"{MOST_PIXELS:,} pixels"):
        numbers(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB; the picture has 750 MiB


# --- Damage: what comes out is the beginning of the video, or an error


CONTAINERS = {
    "a.mp4": ("mpeg4", FAST_START),
    "a.mkv": ("mpeg4", {}),
    "a.avi": ("mjpeg", {}),
    "a.ts": ("mpeg2video", {}),
}


@pytest.fixture(scope="module", params=list(CONTAINERS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of six noisy frames in each container."""
    codec, options = CONTAINERS[request.param]
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = Clip(codec, rate=25, frames=6, format=pixels, options=options)
    return write(tmp_path_factory.mktemp("whole") / request.param, clip, noise(6, clip))


@settings(deadline=None, max_examples=10)
@given(share=st.floats(0.0, 1.0))
def test_read_frames_cut_at_any_byte_gives_the_first_frames_or_an_error(whole: Path, share: float) -> None:
    data = whole.read_bytes()
    path = whole.with_name("cut" + whole.suffix)
    path.write_bytes(data[: int(share * len(data))])
    outcome = times_or_error(path)
    assert names_it(outcome, path)
    if isinstance(outcome, list):
        expected = [time_s for _, time_s in read_frames(whole, 1000)]
        assert outcome == pytest.approx(expected[: len(outcome)], abs=1e-3)


@settings(deadline=None, max_examples=10)
@given(places=st.lists(st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=40))
def test_read_frames_any_bytes_changed_gives_rising_times_or_an_error(
    whole: Path, places: list[tuple[float, int]]
) -> None:
    data = bytearray(whole.read_bytes())
    for share, value in places:
        data[int(share * len(data))] = value
    path = whole.with_name("bad" + whole.suffix)
    path.write_bytes(data)
    assert names_it(times_or_error(path), path)


@settings(deadline=None, max_examples=30)
@given(st.binary(min_size=1, max_size=400))
def test_read_frames_any_bytes_are_no_video_or_have_frames(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(data)
    assert names_it(times_or_error(path), path)


# --- Pipes


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_read_frames_pipe_that_nobody_writes_to_is_an_error_after_the_silence(pipe: Path) -> None:
    with pytest.raises(VideoError, match=r"no data for 0\.05 s") as caught:
        numbers(pipe, silence_s=0.05)
    assert "Start the program that writes" in caught.value.fix


def test_read_frames_pipe_gives_what_is_written_and_is_closed(tmp_path: Path, pipe: Path) -> None:
    data = write(tmp_path / "a.ts", Clip("mpeg2video", rate=25, frames=6)).read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    files = psutil.Process().num_fds()
    assert numbers(pipe) == [0, 1, 2, 3, 4, 5]
    writer.join()
    assert psutil.Process().num_fds() <= files


def test_read_frames_pipe_that_falls_silent_ends_with_the_frames_so_far(tmp_path: Path, pipe: Path) -> None:
    data = write(tmp_path / "a.mkv", Clip(rate=25, frames=12)).read_bytes()
    keep_open = os.open(pipe, os.O_RDWR)  # the reader never sees an end
    os.write(keep_open, data)
    reader = read_frames(pipe, 1000, silence_s=0.1)
    assert len(list(reader)) == 12
    os.close(keep_open)
