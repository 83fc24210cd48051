"""What a validation takes beside time: memory of a process, and energy where the machine counts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

_ROOT = Path("/")
_POWERCAP = "sys/class/powercap"


@dataclass(frozen=True)
class Energy:
    """Energy of the processors while clips were streamed, with everything else that ran on them.

    Attributes:
        status: ``not_run``: there is no figure.
        joules: Sum over the processors; GPU, memory and disk are not in it.
        clips: Clips that were streamed meanwhile; those of an earlier command are not among them.
        reason: Why there is no figure.
    """

    status: Literal["measured", "not_run"]
    joules: float | None = None
    clips: int = 0
    reason: str | None = None


def no_energy(reason: str) -> Energy:
    """Return that there is no figure, and why."""
    return Energy("not_run", reason=reason)


class Meter(Protocol):
    """Told of every clip while a validation runs, and asked at its end."""

    def clip_done(self) -> None:
        """Take note of a clip."""
        ...

    def read(self) -> Energy:
        """Return what the clips took."""
        ...


@dataclass(frozen=True)
class NoMeter:
    """There is nothing to read, for this reason."""

    reason: str

    def clip_done(self) -> None:
        """Do nothing."""

    def read(self) -> Energy:
        """Return that there is no figure."""
        return no_energy(self.reason)


class EnergyMeter:
    """Adds up the energy counters of the processors (RAPL), which begin again at zero every few minutes to hours.

    Args:
        root: Root of the file system.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._last = _read_counters(root)
        self._used = 0
        self._clips = 0
        self._lost = False

    def clip_done(self) -> None:
        """Take the counters after a clip."""
        now = _read_counters(self._root)
        self._lost = self._lost or now.keys() != self._last.keys()
        if not self._lost:
            self._used += sum(_since(self._last[name], now[name]) for name in now)
        self._last = now
        self._clips += 1

    def read(self) -> Energy:
        """Return what the clips took."""
        if self._lost:
            return no_energy("an energy counter could not be read any more")
        if not self._last:
            return no_energy("this machine shows no energy counter of its processors to this user")
        if not self._clips:
            return no_energy("no clip was left to stream")
        return Energy("measured", round(self._used / 1e6, 1), self._clips)


@dataclass(frozen=True)
class _Counter:
    """A counter in microjoules, which is followed by 0 when it has reached ``most``."""

    value: int
    most: int


def _since(before: _Counter, now: _Counter) -> int:
    gone = now.value - before.value
    return gone if gone >= 0 else gone + now.most


def _read_counters(root: Path) -> Mapping[str, _Counter]:
    folder = root / _POWERCAP
    if not folder.is_dir():
        return {}
    found = {path.name: _read_counter(path) for path in sorted(folder.glob("intel-rapl:*")) if _is_package(path)}
    return {name: counter for name, counter in found.items() if counter is not None}


def _is_package(path: Path) -> bool:
    """Return whether a counter is that of a whole processor; others count its parts, or the board, again."""
    try:
        return (path / "name").read_text().startswith("package")
    except OSError:
        return False


def _read_counter(path: Path) -> _Counter | None:
    try:
        most = int((path / "max_energy_range_uj").read_text())
        return _Counter(int((path / "energy_uj").read_text()), most)
    except (OSError, ValueError):  # only root may read it on most systems
        return None


def peak_resident_bytes(root: Path = _ROOT) -> int | None:
    """Return the largest resident size that this process has had; ``None`` where the system does not tell.

    The figure of ``getrusage`` is not taken: it begins with that of the process that started this one.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", (root / "proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None
