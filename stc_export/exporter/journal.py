"""Which part of a weight file is written and whole, so that a build that was killed goes on from there.

A journal lies beside its weight file while a build runs. Its first line is a digest of what the file is made from, and
each other line a size of the file with the SHA-256 of so many bytes, and perhaps a note on what was written last. What
the lines do not vouch for is written again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_SUFFIX = ".journal"
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Kept:
    """The beginning of a file that is as it was written.

    Attributes:
        size_bytes: Its length.
        digest: SHA-256 of it, to be continued.
        notes: The note of each mark in it; "" without one.
    """

    size_bytes: int
    digest: Any
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Mark:
    """A line of a journal."""

    size_bytes: int
    sha256: str
    note: str

    @property
    def text(self) -> str:
        return f"{self.size_bytes} {self.sha256} {self.note}".rstrip()


def _no_note(_place: int, note: str) -> bool:
    return not note


def journal_of(file: Path) -> Path:
    """Return where the journal of a weight file lies."""
    return file.with_name(file.name + _SUFFIX)


def journals(folder: Path) -> list[Path]:
    """Return the journals in a folder."""
    return sorted(folder.glob("*" + _SUFFIX))


def file_of(journal: Path) -> Path:
    """Return the weight file of a journal."""
    return journal.with_name(journal.name.removesuffix(_SUFFIX))


def resume(file: Path, made_from: str, fits: Callable[[int, str], bool] = _no_note) -> Kept:
    """Cut a file down to what its journal vouches for, or begin both anew.

    Args:
        file: The weight file; it need not exist.
        made_from: Digest of what it is made from; with another one nothing is kept.
        fits: (number of a mark, its note) -> whether it is a note that belongs there. Nothing behind another is kept.

    Raises:
        FileExistsError: There is a file without a journal: not one of ours.
    """
    journal = journal_of(file)
    if not journal.exists():
        file.open("xb").close()
    marks = list(takewhile(lambda one: fits(one[0], one[1].note), enumerate(_marks(journal, made_from))))
    kept = _verified(file, [one for _, one in marks])
    lines = [made_from, *(one.text for _, one in marks if one.size_bytes <= kept.size_bytes)]
    journal.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    with file.open("ab") as handle:
        handle.truncate(kept.size_bytes)
    return kept


def mark(file: Path, size_bytes: int, digest: Any, note: str = "") -> None:
    """Vouch for the first ``size_bytes`` of a file, which have been handed to the system.

    Args:
        file: The weight file.
        size_bytes: So much of it.
        digest: SHA-256 of that.
        note: A line of ASCII that whoever goes on gets back.
    """
    with journal_of(file).open("a", encoding="ascii") as handle:
        handle.write(f"{_Mark(size_bytes, digest.hexdigest(), note).text}\n")


def _marks(journal: Path, made_from: str) -> Iterator[_Mark]:
    """Yield marks with ascending sizes; a line that is cut off or strange ends them."""
    try:
        first, *lines = journal.read_text(encoding="ascii", errors="replace").split("\n")
    except OSError:
        return
    if first != made_from:
        return
    last = 0
    for line in lines[:-1]:
        size, digest, note = (*line.split(" ", 2), "", "")[:3]
        if not size.isdecimal() or int(size) <= last:
            return
        last = int(size)
        yield _Mark(last, digest, note)


def _verified(file: Path, marks: list[_Mark]) -> Kept:
    """Read a file up to the first mark that it does not agree with."""
    digest, size, notes = hashlib.sha256(), 0, list[str]()
    if not marks or not file.is_file():
        return Kept(size, digest)
    with file.open("rb") as handle:
        for one in marks:
            longer = digest.copy()
            for data in _read(handle, one.size_bytes - size):
                longer.update(data)
            if handle.tell() != one.size_bytes or longer.hexdigest() != one.sha256:
                break
            digest, size = longer, one.size_bytes
            notes.append(one.note)
    return Kept(size, digest, tuple(notes))


def _read(handle: Any, count: int) -> Iterator[bytes]:
    while count and (data := handle.read(min(count, _CHUNK_BYTES))):
        count -= len(data)
        yield data
