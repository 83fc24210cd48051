"""Files and directories that appear under their names when they are complete, and not before."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_file(data: bytes, out: Path) -> None:
    """Write a file beside its place and rename it, so that an interrupted write leaves an older one as it was."""
    handle, partial = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(partial).chmod(0o644)
        Path(partial).replace(out)
    finally:
        Path(partial).unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """Make a directory next to ``out`` that takes its place when the block ends well, and is gone otherwise.

    What was at ``out`` stays until then, and comes back if the process is killed between the two renames: the next
    call sees to it, and clears up what killed ones left behind, before its block begins.
    """
    out = out.absolute()
    for stale in _left_by_dead(out, "partial"):
        shutil.rmtree(stale, ignore_errors=True)
    for stale in _left_by_dead(out, "old"):
        if out.exists():
            _remove(stale)
        else:
            stale.rename(out)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-{os.getpid()}-", dir=out.parent))
    try:
        yield partial
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _left_by_dead(out: Path, kind: str) -> list[Path]:
    prefix = f".{out.name}.{kind}-"
    beside = [path for path in out.parent.iterdir() if path.name.startswith(prefix)]
    return [path for path in beside if not _alive(path.name.removeprefix(prefix).split("-")[0])]


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _replace(partial: Path, out: Path) -> None:
    partial.chmod(0o755)
    old = partial.with_name(f".{out.name}.old-{partial.name.removeprefix(f'.{out.name}.partial-')}")
    try:
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except BaseException:  # an interrupt, too, must not leave the place empty
        if os.path.lexists(old) and not out.exists():
            old.rename(out)
        raise
    _remove(old)


def _remove(old: Path) -> None:
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
