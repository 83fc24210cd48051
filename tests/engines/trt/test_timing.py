"""Timing caches: what one build learned spares the next, builds at once lose nothing, and no cache fails a build."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_engines.trt import timing
from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.isolate import build_isolated
from stc_engines.trt.timing import TimingFile, cache_folder, cache_name, read_cache, write_cache
from stc_engines.trt.worker import Job
from stc_export.spec import codec
from stc_export.spec.engines import Fingerprint
from stc_export.spec.errors import EngineError
from stc_export.spec.files import write_file
from tests.docs.pages import ROOT
from tests.engines.trt.fake_compiler import FakeCompiler

ORIN = Fingerprint("trt", "10.3.0", "Orin", "8.7", "36.4.3", ())
NO_CACHE = "it is no timing cache of this version"
DAMAGED = "it is damaged, or was made for another compiler or device"
#: What is not a cache that was written here, and what is said of it.
FOREIGN = {
    "empty": (b"", NO_CACHE),
    "random": (bytes(range(256)) * 9, NO_CACHE),
    "header only": (b"stc.timing/1 ", DAMAGED),
    "no digest": (b"stc.timing/1 a.timing \n", DAMAGED),
    "other schema": (b"stc.timing/2 a.timing 00\n[]", NO_CACHE),
    "compiler's own": (b'["10.3.0 on Orin", {"conv": "1 ms"}]', NO_CACHE),
}


class Place:
    """A cache file, builds that use it, and what the user is told."""

    def __init__(self, folder: Path, name: str = "a.timing") -> None:
        self.folder, self.path = folder, folder / "caches" / name
        self.notes: list[str] = []

    def build(self, layers: str, trt: Any = None, patience_s: float = 30.0) -> list[str]:
        """Build a graph of these layers and return those that were timed."""
        graph = self.folder / "graph.onnx"
        graph.write_text(layers)
        timings = TimingFile(self.path, self.notes.append, patience_s)
        timed: list[str] = json.loads(
            build_plan(trt or FakeCompiler(), Recipe(str(graph), ()), lambda *_: None, timings)
        )
        return timed

    def known(self) -> set[str]:
        return set(json.loads(read_cache(self.path))[1])

    def files(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------

texts = st.one_of(st.none(), st.text(max_size=300))
prints = st.builds(Fingerprint, st.sampled_from(["trt", "trt-rtx"]), st.text(max_size=60), texts, texts, texts)
prints = prints.map(lambda found: replace(found, graphs=()))


@given(prints)
def test_name_is_one_plain_file_name_whatever_the_gpu_is_called(found: Fingerprint) -> None:
    name = cache_name(found)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*\.timing", name)
    assert len(name) < 200


@given(prints, prints)
def test_names_differ_exactly_where_compiler_version_device_or_sm_do(one: Fingerprint, other: Fingerprint) -> None:
    same = all(getattr(one, field) == getattr(other, field) for field in ("product", "version", "device", "sm"))
    assert (cache_name(one) == cache_name(other)) is same
    assert cache_name(replace(one, l4t="1.2.3")) == cache_name(one)


@pytest.mark.parametrize(
    ("found", "readable"),
    [
        (ORIN, "trt-10.3.0-Orin-sm8.7-"),
        (replace(ORIN, device="NVIDIA A100-SXM4-80GB", sm="8.0"), "trt-10.3.0-NVIDIA-A100-SXM4-80GB-sm8.0-"),
        (replace(ORIN, device="../../etc/passwd\0\n"), "trt-10.3.0-etc-passwd-sm8.7-"),
        (Fingerprint("trt-rtx", "1.7.1", None, None, None, ()), "trt-rtx-1.7.1-any-sm-any-"),
    ],
)
def test_name_can_be_read(found: Fingerprint, readable: str) -> None:
    assert cache_name(found).startswith(readable)
    assert len(cache_name(found)) == len(readable) + len("0123abcd.timing")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, Path("/c/stc-export/timing")),
        ({"HOME": "/h"}, Path("/h/.cache/stc-export/timing")),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, Path("/h/.cache/stc-export/timing")),
        ({"XDG_CACHE_HOME": "here", "HOME": "/h"}, Path("/h/.cache/stc-export/timing")),
        ({"HOME": "here"}, None),
        ({}, None),
    ],
)
def test_folder_is_in_the_users_cache_directory(environment: dict[str, str], expected: Path | None) -> None:
    assert cache_folder(environment) == expected


# --- builds one after the other --------------------------------------------------------------------------------------


def test_second_build_times_only_what_is_new(place: Place) -> None:
    assert place.build("conv gemm") == ["conv", "gemm"]
    assert place.build("gemm softmax") == ["softmax"]
    assert place.build("conv softmax") == []
    assert place.known() == {"conv", "gemm", "softmax"}
    assert place.notes == []
    assert place.files() == ["a.timing", "a.timing.lock"]


def test_build_that_is_refused_leaves_the_cache_as_it_was(place: Place) -> None:
    place.build("conv")
    before = place.path.read_bytes()
    with pytest.raises(EngineError):
        place.build("gemm refused")
    assert place.path.read_bytes() == before


@pytest.mark.parametrize(("content", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_cache_is_told_and_replaced(place: Place, content: bytes, reason: str) -> None:
    place.path.parent.mkdir()
    place.path.write_bytes(content)
    assert place.build("conv") == ["conv"]
    assert place.known() == {"conv"}
    assert place.notes == [f'timing cache "{place.path}" is not used: {reason}']


@given(st.data())
def test_truncated_or_changed_cache_never_reaches_the_compiler(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = Place(tmp_path_factory.mktemp("timing"))
    place.build("conv gemm softmax")
    whole = bytearray(place.path.read_bytes())
    if data.draw(st.booleans(), "truncated"):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        broken = whole
    place.path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"timing cache of this version|damaged"):
        read_cache(place.path)
    assert place.build("conv") == ["conv"]
    assert place.known() == {"conv"}
    assert len(place.notes) == 1


def test_cache_under_another_name_is_foreign(place: Place) -> None:
    """A file of another version that was copied or renamed."""
    place.build("conv")
    other = Place(place.folder, "b.timing")
    place.path.rename(other.path)
    assert other.build("conv") == ["conv"]
    assert other.notes == [f'timing cache "{other.path}" is not used: {DAMAGED}']


def test_cache_that_the_compiler_refuses_is_replaced(place: Place) -> None:
    """Two boards of one name and SM that share a home directory: the compiler tells them apart."""
    place.build("conv gemm")
    nano = FakeCompiler("10.3.0 on Orin Nano")
    assert place.build("conv", nano) == ["conv"]
    assert place.notes == [f'timing cache "{place.path}" is not used: the compiler does not take it']
    assert place.build("conv gemm", nano) == ["gemm"]


def test_compiler_that_makes_no_cache_of_it_gets_an_empty_one(place: Place) -> None:
    """A null pointer of the library arrives as None."""
    place.build("conv")
    write_cache(b"null", place.path)
    assert place.build("conv") == ["conv"]
    assert place.notes == [f'timing cache "{place.path}" is not used: the compiler does not take it']
    assert place.known() == {"conv"}


def test_compiler_that_makes_no_cache_at_all_builds_without(place: Place) -> None:
    place.build("conv")
    before = place.path.read_bytes()
    assert place.build("conv", FakeCompiler("")) == ["conv"]
    assert set(place.notes) == {f'timing cache "{place.path}" is not used: the compiler does not take it'}
    assert place.path.read_bytes() == before


# --- faults of files -------------------------------------------------------------------------------------------------


def in_the_way(place: Place) -> Path:
    """A file where the folder should be."""
    (place.folder / "caches").write_text("")
    return place.path


def read_only(_place: Place) -> Path:
    """A folder where not even root may write."""
    return Path("/proc/stc-export/a.timing")


def a_folder(place: Place) -> Path:
    """A folder where the file should be."""
    place.path.mkdir(parents=True)
    return place.path


def a_pipe(place: Place) -> Path:
    """A pipe where the file should be: whoever opened it would wait for its other end."""
    place.path.parent.mkdir()
    os.mkfifo(place.path)
    return place.path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (in_the_way, ["is not used: Not a directory", "is not kept: File exists"]),
        (read_only, ["is not kept: No such file or directory"]),
        (a_folder, ["is not used: it is not a plain file", "is not kept: Is a directory"]),
        (a_pipe, ["is not used: it is not a plain file"]),
    ],
)
def test_place_that_cannot_be_used_is_told_and_the_plan_is_built(place: Place, make: Any, expected: list[str]) -> None:
    place.path = make(place)
    assert place.build("conv") == ["conv"]
    assert place.notes == [f'timing cache "{place.path}" {text}' for text in expected]


def test_file_that_may_not_be_read_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build("conv")

    def denied(_path: Path, _most: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(timing, "read_bytes", denied)
    assert place.build("conv") == ["conv"]
    assert place.notes == [f'timing cache "{place.path}" is not used: Permission denied']


def test_file_that_is_larger_than_any_cache_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build("conv")
    monkeypatch.setattr(timing, "_MAX_BYTES", 10)
    assert place.build("conv") == ["conv"]
    assert "larger than any of its kind" in place.notes[0]


def test_full_disk_is_told_and_the_older_cache_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build("conv")
    before = place.path.read_bytes()

    @contextlib.contextmanager
    def full(handle: int, _mode: str) -> Iterator[Any]:
        """Open a file that takes half of what it is given."""

        def write(data: bytes) -> None:
            os.write(handle, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        yield SimpleNamespace(write=write)

    monkeypatch.setattr("stc_export.spec.files.os.fdopen", full)
    assert place.build("gemm") == ["gemm"]
    assert place.notes == [f'timing cache "{place.path}" is not kept: No space left on device']
    assert place.path.read_bytes() == before
    assert place.files() == ["a.timing", "a.timing.lock"]


# --- several processes -----------------------------------------------------------------------------------------------

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "a")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def hold(lock: Path) -> subprocess.Popen[str]:
    """Another process that holds a lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "held\n"
    return child


def test_lock_that_is_never_released_is_told_and_the_plan_is_built(place: Place) -> None:
    place.build("conv")
    before = place.path.read_bytes()
    with hold(place.folder / "caches" / "a.timing.lock"):
        assert place.build("conv gemm", patience_s=0.1) == ["gemm"]
    assert place.notes == [f'timing cache "{place.path}" is not kept: another build holds its lock']
    assert place.path.read_bytes() == before


def test_lock_that_is_released_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.build("conv")
    with hold(place.folder / "caches" / "a.timing.lock") as other:
        # The first look finds it held; then it is released, and a later one gets it.
        monkeypatch.setattr(timing.time, "sleep", lambda _: other.communicate())
        assert place.build("gemm") == ["gemm"]
    assert place.known() == {"conv", "gemm"}
    assert place.notes == []


def test_what_was_added_during_a_build_is_kept(place: Place) -> None:
    other = Place(place.folder)
    slow = FakeCompiler(during=lambda: other.build("gemm"))
    assert place.build("conv", slow) == ["conv"]
    assert place.known() == {"conv", "gemm"}


#: A worker whose compiler is the stand-in, and ends a build only when all workers have begun theirs.
WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.engines.trt.fake_compiler import FakeCompiler
from stc_engines.trt import worker

def meet():
    folder = Path({folder!r})
    (folder / sys.argv[1]).touch()
    while len(list(folder.iterdir())) < int(sys.argv[2]):
        time.sleep(0.01)

sys.modules["tensorrt"] = FakeCompiler(during=meet)
job = worker.codec.from_json(worker.Job, sys.stdin.read())
sys.exit(worker.work(job, sys.stdout))
"""


def test_workers_at_once_lose_nothing_of_each_other(place: Place) -> None:
    count, meeting = 3, place.folder / "meeting"
    meeting.mkdir()
    script = textwrap.dedent(WORKER).format(root=str(ROOT), folder=str(meeting))
    children = []
    for number in range(count):
        graph = place.folder / f"{number}.onnx"
        graph.write_text(f"shared only-{number}")
        job = Job("trt", Recipe(str(graph), ()), str(place.folder / f"{number}.plan"), str(place.path))
        command = [sys.executable, "-c", script, str(number), str(count)]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert children[-1].stdin
        children[-1].stdin.write(codec.to_json(job))
        children[-1].stdin.close()
    for child in children:
        with child:
            assert child.stdout
            assert "error" not in child.stdout.read()
        assert child.returncode == 0
    assert place.known() == {"shared", *(f"only-{number}" for number in range(count))}
    plans = [json.loads((place.folder / f"{number}.plan").read_text()) for number in range(count)]
    assert plans == [["shared", f"only-{number}"] for number in range(count)]
    assert place.files() == ["a.timing", "a.timing.lock"]


def test_note_of_a_worker_reaches_the_user(place: Place) -> None:
    meeting = place.folder / "meeting"
    meeting.mkdir()
    place.path.parent.mkdir()
    place.path.write_bytes(b"nonsense")
    (place.folder / "graph.onnx").write_text("conv")
    job = Job("trt", Recipe(str(place.folder / "graph.onnx"), ()), str(place.folder / "plan"), str(place.path))
    script = textwrap.dedent(WORKER).format(root=str(ROOT), folder=str(meeting))
    notes: list[str] = []
    build_isolated(job, lambda *_: None, notes.append, (sys.executable, "-c", script, "0", "1"))
    assert notes == [f'timing cache "{place.path}" is not used: {NO_CACHE}']
    assert place.known() == {"conv"}


def test_write_is_under_the_lock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def write(data: bytes, out: Path) -> None:
        with out.with_name(f"{out.name}.lock").open("a") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(out)
        write_file(data, out)

    monkeypatch.setattr(timing, "write_file", write)
    place.build("conv")
    assert seen == [place.path]
