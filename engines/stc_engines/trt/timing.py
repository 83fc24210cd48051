"""Timing caches: what TensorRT measured of its kernels is kept, so that the next build of like layers is fast.

There is one file per compiler, version, device and SM. Several builds may use it at once: each adds what it learned
to what the file holds by then. A file that is damaged or foreign never reaches the compiler, and none fails a build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stc_export.spec.files import read_bytes, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from stc_export.spec.engines import Fingerprint

_SCHEMA = "stc.timing/1"
_SUFFIX = ".timing"
#: A cache of every graph of a bundle takes a few MiB.
_MAX_BYTES = 512 * 1024 * 1024
_PART_LETTERS, _DIGEST_LETTERS = 40, 8
#: How long a build waits for another one that is writing, and how often it looks.
_PATIENCE_S, _LOOK_S = 30.0, 0.05
#: A cache of another device is refused: its times say nothing here.
_IGNORE_MISMATCH = False


def cache_name(fingerprint: Fingerprint) -> str:
    """Return the file name of a cache, e.g. ``trt-10.3.0-Orin-sm8.7-baf17def.timing``.

    The parts are for people, shortened and without odd characters; the digits tell those apart that look alike then.
    """
    parts = (fingerprint.product, fingerprint.version, fingerprint.device, fingerprint.sm)
    texts = (fingerprint.product, fingerprint.version, fingerprint.device or "any", f"sm{fingerprint.sm or '-any'}")
    plain = (re.sub(r"[^A-Za-z0-9.]+", "-", text)[:_PART_LETTERS].strip("-.") for text in texts)
    digest = hashlib.sha256(ascii(parts).encode()).hexdigest()
    return "-".join([*filter(None, plain), digest[:_DIGEST_LETTERS]]) + _SUFFIX


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """Return the folder of all caches in the user's cache directory; ``None`` if the environment names none."""
    for variable, below in (("XDG_CACHE_HOME", ""), ("HOME", ".cache")):
        base = Path(environment.get(variable, ""), below)
        if base.is_absolute():  # the standard of XDG_CACHE_HOME has others ignored
            return base / "stc-export" / "timing"
    return None


class Timings(Protocol):
    """Where a build gets the times of kernels from, and where it leaves those that it took."""

    def attach(self, config: Any) -> Any:
        """Give a configuration of the compiler a cache, and return it."""
        ...

    def keep(self, config: Any, learned: Any) -> None:
        """Keep what a build added to its cache."""
        ...


class Untimed:
    """No cache: for a compiler that has no use for one."""

    def attach(self, config: Any) -> Any:
        """Do nothing."""

    def keep(self, config: Any, learned: Any) -> None:
        """Do nothing."""


class TimingFile:
    """A cache in a file.

    Args:
        path: The file; it, its lock (which stays) and their folder are made when they are needed.
        note: Told in one line why the cache is not used, or not kept.
        patience_s: How long to wait for another build that is writing.
    """

    def __init__(self, path: Path, note: Callable[[str], None], patience_s: float = _PATIENCE_S) -> None:
        self._path, self._note, self._patience_s = path, note, patience_s

    def attach(self, config: Any) -> Any:
        """Give a configuration what the file holds, or an empty cache; return it, it must outlive the build.

        ``None`` if the compiler takes neither.
        """
        try:
            stored = read_cache(self._path)
        except (OSError, ValueError) as error:
            self._note(f'timing cache "{self._path}" is not used: {_reason(error)}')
            stored = b""
        for data in (stored, b""):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, _IGNORE_MISMATCH):
                return cache
            self._note(f'timing cache "{self._path}" is not used: the compiler does not take it')
        return None

    def keep(self, config: Any, learned: Any) -> None:
        """Add what the file holds by now to what was learned, and replace it; one that cannot be added is lost."""
        if learned is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.with_name(f"{self._path.name}.lock"), self._patience_s):
                self._add(config, learned)
                write_cache(bytes(learned.serialize()), self._path)
        except OSError as error:
            self._note(f'timing cache "{self._path}" is not kept: {_reason(error)}')

    def _add(self, config: Any, learned: Any) -> None:
        """Add the file's content; where it is unusable, or the compiler refuses it, :meth:`attach` said so."""
        with contextlib.suppress(OSError, ValueError):
            stored = config.create_timing_cache(read_cache(self._path))
            if stored is not None:
                learned.combine(stored, _IGNORE_MISMATCH)


def read_cache(path: Path) -> bytes:
    """Return what a compiler wrote into a cache; nothing if there is no file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or belongs to another compiler, version or device.
    """
    try:
        content = read_bytes(path, _MAX_BYTES)
    except FileNotFoundError:
        return b""
    header, _, data = content.partition(b"\n")
    if not header.startswith(f"{_SCHEMA} ".encode()):
        raise ValueError("it is no timing cache of this version")
    if header != _header(data, path):
        raise ValueError("it is damaged, or was made for another compiler or device")
    return data


def write_cache(data: bytes, path: Path) -> None:
    """Replace a cache by what a compiler wrote.

    Raises:
        OSError: It cannot be written; an older one is as it was.
    """
    write_file(_header(data, path) + b"\n" + data, path)


def _header(data: bytes, path: Path) -> bytes:
    """A compiler that is given damaged bytes may crash, so the file says what it is and holds its own digest."""
    return f"{_SCHEMA} {path.name} {hashlib.sha256(data).hexdigest()}".encode()


@contextlib.contextmanager
def _locked(path: Path, patience_s: float) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(handle, time.monotonic() + patience_s)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, until: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise TimeoutError("another build holds its lock") from None
            time.sleep(_LOOK_S)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
