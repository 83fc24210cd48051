"""Which part of a weight file is written and whole, so that a build that was killed goes on from there.

A journal lies beside its weight file while a build runs. Its first line is a digest of what the file is made from, and
each other line a size of the file with the SHA-256 of so many bytes. What the lines do not vouch for is written again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SUFFIX = ".journal"
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Kept:
    """The beginning of a file that is as it was written.

    Attributes:
        size_bytes: Its length.
        digest: SHA-256 of it, to be continued.
    """

    size_bytes: int
    digest: Any


def journal_of(file: Path) -> Path:
    """Return where the journal of a weight file lies."""
    return file.with_name(file.name + _SUFFIX)


def journals(folder: Path) -> list[Path]:
    """Return the journals in a folder."""
    return sorted(folder.glob("*" + _SUFFIX))


def file_of(journal: Path) -> Path:
    """Return the weight file of a journal."""
    return journal.with_name(journal.name.removesuffix(_SUFFIX))


def resume(file: Path, made_from: str) -> Kept:
    """Cut a file down to what its journal vouches for, or begin both anew.

    Args:
        file: The weight file; it need not exist.
        made_from: Digest of what it is made from; with another one nothing is kept.

    Raises:
        FileExistsError: There is a file without a journal: not one of ours.
    """
    journal = journal_of(file)
    if not journal.exists():
        file.open("xb").close()
    marks = list(_marks(journal, made_from))
    kept = _verified(file, marks)
    lines = [made_from, *(f"{size} {digest}" for size, digest in marks if size <= kept.size_bytes)]
    journal.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    with file.open("ab") as handle:
        handle.truncate(kept.size_bytes)
    return kept


def mark(file: Path, size_bytes: int, digest: Any) -> None:
    """Vouch for the first ``size_bytes`` of a file, which have been handed to the system."""
    with journal_of(file).open("a", encoding="ascii") as handle:
        handle.write(f"{size_bytes} {digest.hexdigest()}\n")


def _marks(journal: Path, made_from: str) -> Iterator[tuple[int, str]]:
    """Yield sizes, ascending, with their digests; a line that is cut off or strange ends them."""
    try:
        first, *lines = journal.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return
    if first != made_from:
        return
    last = 0
    for line in lines[:-1]:
        size, _, digest = line.partition(" ")
        if not size.isdecimal() or int(size) <= last:
            return
        last = int(size)
        yield last, digest


def _verified(file: Path, marks: list[tuple[int, str]]) -> Kept:
    """Read a file up to the first mark that it does not agree with."""
    digest, size = hashlib.sha256(), 0
    if not marks or not file.is_file():
        return Kept(size, digest)
    with file.open("rb") as handle:
        for end, expected in marks:
            longer = digest.copy()
            for data in _read(handle, end - size):
                longer.update(data)
            if handle.tell() != end or longer.hexdigest() != expected:
                break
            digest, size = longer, end
    return Kept(size, digest)


def _read(handle: Any, count: int) -> Iterator[bytes]:
    while count and (data := handle.read(min(count, _CHUNK_BYTES))):
        count -= len(data)
        yield data
