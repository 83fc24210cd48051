"""Files and directories appear when they are complete, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stc_export.spec.files import new_directory, write_file

if TYPE_CHECKING:
    from pathlib import Path


def test_write_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"old and longer")
    write_file(b"new", out)
    assert out.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(OSError, match="directory"):
        write_file(b"new", out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (out / "mine").read_text() == "mine"


def test_directory_appears_at_the_end_in_place_of_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "clip"
    out.mkdir()
    (out / "old").touch()
    with new_directory(out) as partial:
        (partial / "new").touch()
        assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
    assert out.stat().st_mode & 0o777 == 0o755


def test_block_that_fails_leaves_the_old_directory_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "clip"
    out.mkdir()
    (out / "old").touch()

    def fail() -> None:
        with new_directory(out) as partial:
            (partial / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]
