"""Results to stdout, everything else to stderr; with ``--json`` exactly one document on stdout."""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.spec import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

_STDOUT, _STDERR = 1, 2


@contextmanager
def reserved_stdout(*, as_json: bool) -> Iterator[None]:
    """With ``as_json``, send whatever is printed inside to stderr, also what native libraries print."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, _STDOUT)
        os.close(kept)


def emit(result: object, text: str, *, as_json: bool) -> None:
    """Print a result on stdout: the dataclass as JSON, or its text for people."""
    write(json_text(result) if as_json else text.rstrip("\n") + "\n")


def write(text: str) -> None:
    """Write to stdout at once.

    Raises:
        KeyboardInterrupt: Whoever read stdout is gone, which ends the command like an interruption.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # the interpreter flushes once more when it ends
        raise KeyboardInterrupt from error


def tell(text: str) -> None:
    """Write a line for people to stderr."""
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()


def json_text(result: object) -> str:
    """Return the canonical JSON of a dataclass; paths become text."""
    return codec.to_json(_plain(result))


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
