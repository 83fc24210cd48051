"""Files and directories that appear under their names when they are complete, and not before; small ones are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK_BYTES = 4 * 1024 * 1024
#: Another process put its directory into the place, or took the old one away, at the same moment.
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})


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


def _nothing(_left: Path) -> bool:
    return False


@contextlib.contextmanager
def new_directory(out: Path, resume: Callable[[Path], bool] = _nothing) -> Iterator[Path]:
    """Make a directory next to ``out`` that takes its place when the block ends well, and is gone otherwise.

    What was at ``out`` stays until then, and comes back if the process is killed between the two renames: the next
    call sees to it, and clears up what killed ones left behind, before its block begins.

    Args:
        out: The place.
        resume: Called with what a killed process left behind, which nobody else touches any more: removes what is of
            no use and returns whether the block can go on with the rest.
    """
    out = out.absolute()
    partial = _left_behind(out, resume)
    for stale in _left_by_dead(out, "old"):
        if out.exists():
            _remove(stale)
        else:
            stale.rename(out)
    if partial is None:
        partial = Path(tempfile.mkdtemp(prefix=_own_prefix(out), dir=out.parent))
    try:
        yield partial
        _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _left_behind(out: Path, resume: Callable[[Path], bool]) -> Path | None:
    """Return one of the directories that dead processes left, if work can go on in it, and remove the others."""
    found = None
    for stale in _left_by_dead(out, "partial"):
        own = stale.with_name(_own_prefix(out) + stale.name.rpartition("-")[2])
        try:
            stale.rename(own)  # from here on no other process takes it or removes it
        except OSError:  # another process was faster, or it is another user's
            continue
        if found is None and own.is_dir() and resume(own):
            found = own
        else:
            shutil.rmtree(own, ignore_errors=True)
    return found


def _own_prefix(out: Path) -> str:
    return f".{out.name}.partial-{os.getpid()}-"


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
    for attempt in itertools.count():
        suffix = partial.name.removeprefix(f".{out.name}.partial-")
        old = partial.with_name(f".{out.name}.old-{suffix}-{attempt}")
        try:
            if out.exists():
                out.rename(old)
            partial.rename(out)
        except BaseException as error:  # an interrupt, too, must not leave the place empty
            if os.path.lexists(old) and not out.exists():
                old.rename(out)
            if getattr(error, "errno", None) not in _TAKEN:
                raise
        else:
            _remove(old)
            return
        _remove(old)


def _remove(old: Path) -> None:
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)
