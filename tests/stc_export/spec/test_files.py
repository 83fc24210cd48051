"""Files and directories appear when they are complete, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stc_export.spec.files import new_directory, write_file

if TYPE_CHECKING:
    from collections.abc import Callable
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


def test_what_a_dead_process_left_is_handed_on_once_and_the_rest_is_removed(tmp_path: Path) -> None:
    """What has no number for its process is nobody's."""
    for name in ("a", "b", "c"):
        (tmp_path / f".clip.partial-dead-{name}").mkdir()
        (tmp_path / f".clip.partial-dead-{name}" / name).touch()
    asked: list[str] = []

    def resume(left: Path) -> bool:
        asked.extend(path.name for path in left.iterdir())
        return len(asked) == 2

    with new_directory(tmp_path / "clip", resume) as partial:
        assert [path.name for path in partial.iterdir()] == [asked[1]]
        assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    assert len(asked) == 2
    assert [path.name for path in (tmp_path / "clip").iterdir()] == [asked[1]]
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


def test_directory_that_appears_in_the_moment_of_the_rename_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "clip", type(tmp_path).rename

    def raced(path: Path, target: Path) -> Path:
        if path.name.startswith(".clip.partial-") and not out.exists():
            out.mkdir()
            (out / "theirs").touch()
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", Once(raced, rename))
    with new_directory(out) as partial:
        (partial / "ours").touch()
    assert [path.name for path in out.iterdir()] == ["ours"]
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


class Once:
    """Calls one function the first time and another one after that."""

    def __init__(self, first: Callable[..., Path], after: Callable[..., Path]) -> None:
        self._calls = iter([first])
        self._after = after

    def __get__(self, path: Path, _owner: object) -> Callable[[Path], Path]:
        return lambda target: next(self._calls, self._after)(path, target)
