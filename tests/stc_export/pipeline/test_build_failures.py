"""Builds that are interrupted, run out of disk or were killed: what was there stays, and nothing half-made is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stc_export.pipeline import build as module
from stc_export.spec.errors import CheckpointError, ResourceError, UsageError
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Callable

    from stc_export.pipeline.types import BuildResult

STAGES = ("_write_weights", "_write_graphs", "check_parity", "write_tokenizer")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_build_interrupted_in_a_stage_leaves_things_as_they_were(
    build: Callable[..., BuildResult],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    overwrite: bool,
) -> None:
    before = quick.contents(request.getfixturevalue("existing")) if overwrite else None
    run = getattr(module, stage)

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(overwrite=overwrite)
    assert quick.beside(tmp_path) == (["x.stc"] if overwrite else [])
    if overwrite:
        assert quick.contents(tmp_path / "x.stc") == before


@pytest.mark.parametrize("number", [1, 2])
def test_build_interrupted_while_it_replaces_leaves_the_old_bundle(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The first rename puts the old bundle aside, the second puts the new one in its place."""
    before, rename, calls = quick.contents(existing), Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == number:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(overwrite=True)
    assert quick.contents(existing) == before
    assert quick.beside(existing.parent) == ["x.stc"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("stage", STAGES)
def test_build_on_a_full_disk_says_so_and_frees_what_it_took(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    before = quick.contents(existing)

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, stage, full)
    with pytest.raises(ResourceError) as caught:
        build(overwrite=True)
    assert caught.value.exit_code == 4
    assert caught.value.problem == f'The disk is full: "{existing}" was not written.'
    assert caught.value.fix == "Free space, or choose another --out."
    assert quick.contents(existing) == before
    assert quick.beside(existing.parent) == ["x.stc"]


def test_build_other_system_error_is_not_called_a_full_disk(
    build: Callable[..., BuildResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "disk")

    monkeypatch.setattr(module, "_write_weights", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        build()
    assert not isinstance(caught.value, ResourceError)
    assert quick.beside(tmp_path) == []


def test_build_with_an_unreadable_tokenizer_fails_before_the_long_stages(
    build: Callable[..., BuildResult], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(module, "_write_weights", quick.forbidden)
    with pytest.raises(CheckpointError):
        build(model=str(directory))
    assert quick.beside(tmp_path) == ["model"]


# --- what killed builds left -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dead() -> int:
    """Id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_build_clears_up_after_dead_builds_and_not_after_living_ones(
    build: Callable[..., BuildResult], tmp_path: Path, dead: int
) -> None:
    kept = [f".x.stc.partial-{os.getpid()}-a", ".x.stc.partial-1-b", f".y.stc.partial-{dead}-c", "x.stc.partial"]
    removed = [f".x.stc.partial-{dead}-d", ".x.stc.partial-e"]
    for name in (*kept, *removed):
        (tmp_path / name / "graphs").mkdir(parents=True)
    build()
    assert quick.beside(tmp_path) == sorted([*kept, "x.stc"])


def test_build_name_with_pattern_characters_clears_only_its_own(
    build: Callable[..., BuildResult], tmp_path: Path, dead: int
) -> None:
    for name in (f".[ab].stc.partial-{dead}-x", f".a.stc.partial-{dead}-x"):
        (tmp_path / name).mkdir()
    build(out=tmp_path / "[ab].stc")
    assert quick.beside(tmp_path) == [f".a.stc.partial-{dead}-x", "[ab].stc"]


def test_build_killed_between_the_renames_is_undone_by_the_next(
    build: Callable[..., BuildResult], existing: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = quick.contents(existing)
    existing.rename(existing.parent / f".x.stc.old-{dead}-a")
    monkeypatch.setattr(module, "_write", quick.forbidden)
    with pytest.raises(UsageError, match="already exists"):
        build()
    assert quick.contents(existing) == before
    assert quick.beside(existing.parent) == ["x.stc"]


def test_build_killed_after_the_renames_is_cleared_up(
    build: Callable[..., BuildResult], existing: Path, tiny_bundle: Path, dead: int
) -> None:
    shutil.copytree(existing, existing.parent / f".x.stc.old-{dead}-a")
    build(overwrite=True)
    assert quick.contents(existing) == quick.contents(tiny_bundle)
    assert quick.beside(existing.parent) == ["x.stc"]
