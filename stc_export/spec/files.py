"""Files and directories that appear under their names when they are complete, and not before; small ones are read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK_BYTES = 4 * 1024 * 1024


def read_text(path: Path, most_bytes: int) -> str:
    """Read a text whose content comes from others: no pipe, no device, and not without end.

    Args:
        path: UTF-8 text.
        most_bytes: More than any such file has.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no plain file, too large, or no text.
    """
    _check_plain(path, most_bytes)
    return path.read_text(encoding="utf-8")


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Read a file whose content comes from others, as :func:`read_text` does.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no plain file, or too large.
    """
    _check_plain(path, most_bytes)
    return path.read_bytes()


def _check_plain(path: Path, most_bytes: int) -> None:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is not a plain file")
    if found.st_size > most_bytes:
        raise ValueError(f"it is larger than any of its kind, which have at most {most_bytes:,} bytes")


def file_digest(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file; ``advance`` is told the bytes that were read.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


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
