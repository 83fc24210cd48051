import gc
import http.server
import os
import re
import struct
import sys
import threading
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.spec.errors import MissingDependencyError, StcError, UsageError, VideoError
from stc_runtime.preprocess import check_frame
from stc_runtime.video import VideoReader, _part, _sampled, _Timed, read_frames
from tests.clips import FAST_START, Clip, noise, write


def write_sound(path: Path, codec: str = "aac") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        for start in range(0, 44100, 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44100, start
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def read(path: Path | str, fps: float) -> tuple[list[int], list[float], VideoReader]:
    """Return the numbers of the delivered frames, their times, and the exhausted reader."""
    reader = read_frames(path, fps)
    items = list(reader)
    assert all(check_frame(picture) is picture for picture, _ in items)
    return [round((picture.mean() - 8) / 8) for picture, _ in items], [time_s for _, time_s in items], reader


def error_of(path: Path | str) -> StcError:
    with pytest.raises(VideoError) as caught:
        list(read_frames(path, 1))
    assert str(path) in caught.value.problem
    assert caught.value.fix
    return caught.value


# --- Which frames


def oracle(times: list[Fraction], end: Fraction, fps: Fraction) -> list[int]:
    """Walk all sample times and take the last frame that is not later, each frame once."""
    taken: list[int] = []
    sample = Fraction(0)
    while sample < end:
        current = max(i for i, time in enumerate(times) if time <= sample)
        if current not in taken:
            taken.append(current)
        sample += 1 / fps
    return taken


@settings(deadline=None)
@given(
    gaps=st.lists(st.integers(1, 150), min_size=1, max_size=12),
    fps=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(3), Fraction(16), Fraction(30), Fraction(64)]),
)
def test_sampled_any_frame_times_takes_the_last_frame_not_later_than_each_sample_time(
    gaps: list[int], fps: Fraction
) -> None:
    times = [Fraction(sum(gaps[:i]), 64) for i in range(len(gaps))]
    end = Fraction(sum(gaps), 64)
    ends = [*times[1:], end]
    frames = [_Timed(i, float(start), float(stop)) for i, (start, stop) in enumerate(zip(times, ends, strict=True))]
    assert [frame.picture for frame in _sampled(frames, float(fps))] == oracle(times, end, fps)


@settings(deadline=None)
@given(
    gaps=st.lists(st.integers(1, 150), min_size=1, max_size=12),
    fps=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(3), Fraction(16)]),
    cut=st.tuples(st.integers(0, 1000), st.integers(1, 600)),
)
def test_part_any_frame_times_is_the_video_cut_there(gaps: list[int], fps: Fraction, cut: tuple[int, int]) -> None:
    times = [Fraction(sum(gaps[:i]), 64) for i in range(len(gaps))]
    whole = Fraction(sum(gaps), 64)
    start, end = Fraction(cut[0], 64), Fraction(cut[0] + cut[1], 64)
    ends = [*times[1:], whole]
    frames = [_Timed(i, float(a), float(b)) for i, (a, b) in enumerate(zip(times, ends, strict=True))]
    taken = [frame.picture for frame in _sampled(_part(frames, float(start), float(end)), float(fps))]
    shown = [i for i in range(len(gaps)) if ends[i] > start and times[i] < end]
    moved = [max(times[i] - start, Fraction(0)) for i in shown]
    assert taken == [shown[i] for i in (oracle(moved, min(end, whole) - start, fps) if shown else [])]


@pytest.mark.parametrize("fps", [1e-300, 1e-9, 1e300])
def test_sampled_extreme_rate_keeps_the_first_and_at_most_all(fps: float) -> None:
    frames = [_Timed(i, i * 0.04, i * 0.04 + 0.04) for i in range(10)]
    expected = list(range(10)) if fps > 1 else [0]
    assert [frame.picture for frame in _sampled(frames, fps)] == expected


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_read_frames_constant_rate_gives_every_fifth_frame_at_its_time(tmp_path: Path, name: str) -> None:
    numbers, times, reader = read(write(tmp_path / name, Clip()), 2)
    assert numbers == [0, 5, 10, 15, 20]
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert not reader.damage.found


def test_read_frames_variable_rate_gives_what_is_on_screen_at_each_second(tmp_path: Path) -> None:
    stamps = (0, 40, 900, 1100, 1900, 1950, 2000, 5300, 5400)
    numbers, times, _ = read(write(tmp_path / "v.mkv", Clip(stamps_ms=stamps)), 1)
    # 0 s: 0; 1 s: 900 ms; 2 s: 2000 ms, still there at 3, 4 and 5 s. The last frame ends before 6 s.
    assert numbers == [0, 2, 6]
    assert times == pytest.approx([0.0, 0.9, 2.0])


@pytest.mark.parametrize("fps", [2, 10, 60])
def test_read_frames_rate_below_fps_gives_every_frame_once(tmp_path: Path, fps: float) -> None:
    numbers, times, _ = read(write(tmp_path / "slow.mkv", Clip(rate=2, frames=6)), fps)
    assert numbers == [0, 1, 2, 3, 4, 5]
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])


def test_read_frames_stream_that_starts_late_has_its_first_frame_at_zero(tmp_path: Path) -> None:
    stamps = tuple(range(7000, 9000, 100))
    numbers, times, _ = read(write(tmp_path / "late.mkv", Clip(stamps_ms=stamps)), 2)
    assert numbers == [0, 5, 10, 15]
    assert times == pytest.approx([0.0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize("name", ["one.mp4", "one.mkv", "one.png"])
@pytest.mark.parametrize("fps", [0.001, 1, 1000])
def test_read_frames_single_frame_is_delivered_at_zero(tmp_path: Path, name: str, fps: float) -> None:
    clip = Clip(frames=1) if "png" not in name else Clip(frames=1, codec="png", format="rgb24")
    numbers, times, _ = read(write(tmp_path / name, clip), fps)
    assert (numbers, times) == ([0], [0.0])


# --- Headers and timestamps that are missing or wrong


def test_read_frames_header_with_a_wrong_frame_count_gives_all_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", Clip())
    data = bytearray(path.read_bytes())
    data[data.index(b"strh") + 40 : data.index(b"strh") + 44] = struct.pack("<I", 7)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 7
    numbers, _, reader = read(path, 10)
    assert numbers == list(range(25))
    assert not reader.damage.found


def test_read_frames_without_index_or_timestamps_counts_at_the_average_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "raw.h264", Clip(codec="libx264", rate=25, container="h264"))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).pts is None
    numbers, times, _ = read(path, 5)
    assert numbers == [0, 5, 10, 15, 20]
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_read_frames_timestamps_that_restart_give_increasing_times(tmp_path: Path) -> None:
    part = write(tmp_path / "part.ts", Clip(codec="mpeg2video", rate=25, frames=20)).read_bytes()
    (tmp_path / "twice.ts").write_bytes(part + part)
    numbers, times, _ = read(tmp_path / "twice.ts", 25)
    assert numbers == [*range(20), *range(20)]
    assert all(later > earlier for earlier, later in pairwise(times))
    assert times[-1] == pytest.approx(39 / 25, abs=0.05)


# --- Pictures


def test_read_frames_colours_come_in_the_order_red_green_blue(tmp_path: Path) -> None:
    clip = Clip(codec="ffv1", format="bgr0", frames=1)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :, 0], picture[24:, :32, 1], picture[24:, 32:, 2] = 250, 200, 150
    write(tmp_path / "c.mkv", clip, [picture])
    ((got, _),) = list(read_frames(tmp_path / "c.mkv", 1))
    np.testing.assert_array_equal(got, picture)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "size"),
    [
        ("g.mkv", "ffv1", "gray", (53, 37)),
        ("h.mkv", "ffv1", "yuv420p10le", (48, 64)),
        ("i.mkv", "ffv1", "yuv444p", (53, 37)),
        ("j.mkv", "ffv1", "bgra", (53, 37)),
        ("k.gif", "gif", "rgb8", (53, 37)),
        ("l.nut", "rawvideo", "rgb24", (53, 37)),
        ("m.avi", "mjpeg", "yuvj420p", (48, 64)),
        ("n.mp4", "mpeg4", "yuv420p", (128, 48)),
    ],
)
def test_read_frames_any_pixel_format_and_size_gives_rgb(
    tmp_path: Path, name: str, codec: str, pixels: str, size: tuple[int, int]
) -> None:
    clip = Clip(codec=codec, format=pixels, height=size[0], width=size[1], frames=4)
    levels = [np.full((*size, 3), 85 * i, np.uint8) for i in range(4)]
    write(tmp_path / name, clip, levels)
    pictures = [picture for picture, _ in read_frames(tmp_path / name, 100)]
    assert [picture.shape for picture in pictures] == [(*size, 3)] * 4
    # rgb8 keeps 3, 3 and 2 bits of a colour
    assert np.abs(np.stack(pictures).astype(int) - np.stack(levels)).max() <= (32 if codec == "gif" else 2)


def test_read_frames_size_change_midway_gives_each_frame_in_its_own_size(tmp_path: Path) -> None:
    parts = []
    for width, height in ((64, 48), (96, 128)):
        clip = Clip(codec="mjpeg", format="yuvj420p", width=width, height=height, frames=3, container="mjpeg")
        parts.append(write(tmp_path / "part.mjpeg", clip).read_bytes())
    (tmp_path / "both.mjpeg").write_bytes(b"".join(parts))
    shapes = [picture.shape for picture, _ in read_frames(tmp_path / "both.mjpeg", 1000)]
    assert shapes == [(48, 64, 3)] * 3 + [(128, 96, 3)] * 3


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "corner", "shape"),
    [
        ((ONE, 0, 0, 0, ONE, 0), ("top", "left"), (48, 64, 3)),
        ((0, ONE, 0, -ONE, 0, 0), ("top", "right"), (64, 48, 3)),  # a quarter turn clockwise
        ((-ONE, 0, 0, 0, -ONE, 0), ("bottom", "right"), (48, 64, 3)),
        ((0, -ONE, 0, ONE, 0, 0), ("bottom", "left"), (64, 48, 3)),
        ((-ONE, 0, 0, 0, ONE, 0), ("top", "right"), (48, 64, 3)),  # mirrored, as of a front camera
        ((0, ONE, 0, ONE, 0, 0), ("top", "left"), (64, 48, 3)),
    ],
)
def test_read_frames_display_matrix_turns_and_mirrors_the_picture(
    tmp_path: Path, matrix: tuple[int, ...], corner: tuple[str, str], shape: tuple[int, ...]
) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255  # stored in the top left corner
    path = write(tmp_path / "turned.mp4", Clip(), [picture])
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # after version, times, track, duration, layer, volume
    assert struct.unpack_from(">9i", data, place) == (ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)
    struct.pack_into(">6i", data, place, *matrix)
    path.write_bytes(data)
    ((got, _),) = list(read_frames(path, 1))
    assert got.shape == shape
    rows = slice(0, 12) if corner[0] == "top" else slice(-12, None)
    columns = slice(0, 12) if corner[1] == "left" else slice(-12, None)
    assert got[rows, columns].mean() > 240
    assert got.mean() < 50


# --- Damage


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_read_frames_truncated_file_gives_the_frames_before_the_cut_and_reports_it(tmp_path: Path, name: str) -> None:
    clip = Clip(options=FAST_START if name.endswith("mp4") else {})
    whole = write(tmp_path / name, clip, noise(25, clip)).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 6 // 10])
    reader = read_frames(tmp_path / name, 10)
    times = [time_s for _, time_s in reader]
    assert 10 <= len(times) <= 16
    assert times == pytest.approx([i / 10 for i in range(len(times))])
    assert reader.damage.found
    assert reader.damage.missing_s == pytest.approx(2.5 - len(times) / 10, abs=0.11)


def test_read_frames_damage_midway_gives_the_frames_after_it_and_counts_errors(tmp_path: Path) -> None:
    clip = Clip(codec="mjpeg", format="yuvj420p")
    path = write(tmp_path / "hole.avi", clip, noise(25, clip))
    data = bytearray(path.read_bytes())
    middle = data.index(b"\xff\xd8\xff", len(data) // 2)  # the start of a picture
    data[middle : middle + 900] = bytes(900)
    path.write_bytes(data)
    reader = read_frames(path, 10)
    times = [time_s for _, time_s in reader]
    assert len(times) == 24
    assert times[-1] == pytest.approx(2.4)
    assert reader.damage.errors >= 1
    assert reader.damage.missing_s == 0.0


def test_read_frames_stopped_early_reports_nothing_missing(tmp_path: Path) -> None:
    with read_frames(write(tmp_path / "a.mp4", Clip()), 1) as reader:
        next(reader)
        assert not reader.damage.found


@pytest.mark.parametrize("size", [0.3, 0.9])
def test_read_frames_mp4_cut_before_its_index_raises_video_error(tmp_path: Path, size: float) -> None:
    path = write(tmp_path / "cut.mp4", Clip())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])
    assert "cannot be read as a video" in error_of(path).problem


def test_read_frames_no_decodable_frame_raises_video_error_at_the_end(tmp_path: Path) -> None:
    clip = Clip(codec="mjpeg", format="yuvj420p", frames=3)
    path = write(tmp_path / "dead.avi", clip)
    pictures = re.compile(rb"\xff\xd8\xff.*?\xff\xd9", re.DOTALL)
    path.write_bytes(pictures.sub(lambda found: bytes(len(found[0])), path.read_bytes()))
    assert "no frame of it could be decoded" in error_of(path).problem


# --- What is not a video


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("noise.mp4", np.random.default_rng(1).bytes(20_000), "cannot be read as a video"),
        ("noise", np.random.default_rng(2).bytes(20_000), "cannot be read as a video"),
        ("notes.mkv", b"not a video\n" * 100, "cannot be read as a video"),
        ("empty.mp4", b"", "is empty"),
        ("missing.mp4", None, "does not exist"),
        (".", None, "is a directory"),
    ],
)
def test_read_frames_no_video_raises_video_error(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert problem in error_of(tmp_path / name).problem


@pytest.mark.parametrize(("name", "codec"), [("sound.m4a", "aac"), ("sound.mkv", "mp2")])
def test_read_frames_sound_alone_raises_video_error(tmp_path: Path, name: str, codec: str) -> None:
    assert "has no picture track" in error_of(write_sound(tmp_path / name, codec)).problem


def test_read_frames_music_with_a_cover_raises_video_error(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "plain.mp2", "mp2").read_bytes()
    cover = write(tmp_path / "c.mjpeg", Clip(codec="mjpeg", format="yuvj420p", frames=1)).read_bytes()
    body = b"\0image/jpeg\0\3\0" + cover
    tag = b"APIC" + struct.pack(">IH", len(body), 0) + body
    size = bytes((len(tag) >> shift) & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "song.mp3").write_bytes(b"ID3\3\0\0" + size + tag + sound)
    with av.open(str(tmp_path / "song.mp3")) as container:
        assert len(container.streams.video) == 1
    assert "has no picture track" in error_of(tmp_path / "song.mp3").problem


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_read_frames_impossible_rate_raises_usage_error(tmp_path: Path, fps: float) -> None:
    with pytest.raises(UsageError, match="fps is"):
        read_frames(tmp_path / "any.mp4", fps)


def test_read_frames_part_is_a_video_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Clip(rate=10, frames=25))
    with read_frames(path, 2, 0.75, 2.0) as reader:
        items = [(round((picture.mean() - 8) / 8), round(time_s, 6)) for picture, time_s in reader]
    assert items == [(7, 0.0), (12, 0.45), (17, 0.95)]  # on the screen at 0.75, 1.25 and 1.75 s
    assert not reader.damage.found


def test_read_frames_part_after_the_end_names_both_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Clip(rate=10, frames=25))
    with pytest.raises(VideoError, match=r"ends after 2\.5 s, expected frames from 60 s on"):
        list(read_frames(path, 1, 60.0, 120.0))


@pytest.mark.parametrize(("start_s", "end_s"), [(-1.0, 1.0), (2.0, 2.0), (3.0, 1.0), (float("nan"), 1.0)])
def test_read_frames_empty_part_raises_usage_error(tmp_path: Path, start_s: float, end_s: float) -> None:
    with pytest.raises(UsageError, match="expected a start from 0 s and a later end"):
        read_frames(tmp_path / "any.mp4", 1, start_s, end_s)


def test_read_frames_without_pyav_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError) as caught:
        read_frames(tmp_path / "any.mp4", 1)
    assert 'pip install "stc-export[video]"' in caught.value.fix


# --- Files and addresses


@pytest.mark.skipif(os.name == "nt", reason="a file name cannot hold a colon on Windows")
@pytest.mark.parametrize("name", ["http:a b%20.mp4", "concat:x|y.mp4", "ümläut 100%d.mp4"])
def test_read_frames_file_name_that_looks_like_an_address_is_a_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.mp4", Clip(frames=3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert read(name, 10)[0] == [0, 1, 2]
    assert read(Path(name), 10)[0] == [0, 1, 2]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_read_frames_network_address_reads_the_stream(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", Clip())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert read(f"{address}/a.mkv", 2)[0] == [0, 5, 10, 15, 20]
        assert "network" in error_of(f"{address}/none.mkv").fix
        server.shutdown()


def open_files() -> set[str]:
    return {Path(item.path).name for item in psutil.Process().open_files()}


@pytest.mark.parametrize("consumed", [0, 1, 3])
def test_read_frames_dropped_reader_releases_the_file_at_once(tmp_path: Path, consumed: int) -> None:
    path = write(tmp_path / "dropped.mkv", Clip())
    gc.disable()
    try:
        reader = read_frames(path, 10)
        for _ in range(consumed):
            next(reader)
        assert "dropped.mkv" in open_files()
        del reader
        assert "dropped.mkv" not in open_files()
    finally:
        gc.enable()


def test_read_frames_left_context_closes_and_stops(tmp_path: Path) -> None:
    path = write(tmp_path / "closed.mkv", Clip())
    with read_frames(path, 10) as reader:
        next(reader)
    assert "closed.mkv" not in open_files()
    assert list(reader) == []
    reader.close()


def test_read_frames_refused_file_is_released(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "refused.m4a")
    error_of(path)
    assert "refused.m4a" not in open_files()


def test_read_frames_two_readers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Clip())
    alone = [time_s for _, time_s in read_frames(path, 5)]
    with read_frames(path, 5) as one, read_frames(path, 5) as two:
        pairs = list(zip(one, two, strict=True))
    assert [time_s for (_, time_s), _ in pairs] == alone
    assert all(np.array_equal(a, b) for (a, _), (b, _) in pairs)
