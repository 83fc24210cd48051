"""Builds that are killed without warning, raced and starved (see ``faults.py``), and disks that fill up at a write."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stc_export.cli.main import main
from stc_export.spec.errors import ResourceError
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from stc_export.pipeline.types import BuildResult

ROOT = Path(__file__).resolve().parents[3]


def counts(mode: str, count: int, checkpoint: Path, bundle: Path, folder: Path) -> dict[str, int]:
    """Run the program in a process that has no threads yet, and return what it counted."""
    place = folder / "place"
    place.mkdir()
    command = [sys.executable, "-m", "tests.stc_export.pipeline.faults"]
    done = subprocess.run(
        [*command, str(checkpoint), str(bundle), str(place), mode, str(count)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_build_killed_at_50_random_moments_is_right_after_the_next(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    found = counts("kills", 50, tiny_checkpoint, tiny_bundle, tmp_path)
    assert found["right"] == 50
    assert found["continued"] >= 10
    assert found.get("begun anew", 0) >= 1


@pytest.mark.slow
def test_two_builds_at_once_beside_a_killed_one_give_one_right_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    assert sum(counts("races", 5, tiny_checkpoint, tiny_bundle, tmp_path).values()) == 10


@pytest.mark.slow
def test_build_without_memory_says_so_and_leaves_no_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    found = counts("starved", 8, tiny_checkpoint, tiny_bundle, tmp_path)
    assert found["exit code 4"] >= 1
    assert sum(found.values()) == 8


# --- disks -----------------------------------------------------------------------------------------------------------


class Disk:
    """Files below a folder that fail at a given write, as on a disk that is full then."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, fails_at: float = float("inf")) -> None:
        self.writes, self._fails_at, self._folder, self._open = 0, fails_at, str(folder), io.open
        patch.setattr(io, "open", self.open)
        patch.setattr(builtins, "open", self.open)

    def open(self, file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        handle = self._open(file, mode, *arguments, **named)
        ours = isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(self._folder)
        return _File(handle, self) if ours and set(mode) & set("wax") else handle

    def count(self) -> None:
        self.writes += 1
        if self.writes >= self._fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _File:
    """A file that tells the disk of each write."""

    def __init__(self, handle: Any, disk: Disk) -> None:
        self._handle, self._disk = handle, disk

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def write(self, data: Any) -> int:
        self._disk.count()
        return int(self._handle.write(data))


def test_build_on_a_disk_that_is_full_at_any_write_leaves_the_old_bundle_alone(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part of a bundle is written through Python's files, so that the n-th write can fail for many n."""
    before = quick.contents(existing)
    with monkeypatch.context() as patch:
        disk = Disk(patch, existing.parent)
        build(out=existing.parent / "y.stc")
    assert disk.writes > 200  # tensors, their marks, graphs, tokenizer, goldens, manifest
    last = disk.writes
    for number in (1, 2, 3, last // 3, last - 20, last - 3, last - 2, last - 1, last):
        with monkeypatch.context() as patch:
            Disk(patch, existing.parent, number)
            with pytest.raises(ResourceError, match="The disk is full"):
                build(overwrite=True)
        assert quick.contents(existing) == before
        assert quick.beside(existing.parent) == ["x.stc", "y.stc"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_build_to_a_place_that_cannot_be_written_names_it(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    assert main(["build", str(tiny_checkpoint), "--out", str(tmp_path / "x.stc")]) == 2
    told = capsys.readouterr().err
    assert f'error: "{tmp_path}" cannot be used: {os.strerror(number)}.' in told
    assert "fix: Check the path and the right to read or write there." in told
    assert quick.beside(tmp_path) == []
