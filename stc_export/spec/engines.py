"""Engines inside a bundle: ``engines/<key>/`` holds plans and ``seal.json``, which says what they were made for.

A plan is bound to the compiler's version, the device and the graph. All of that is compared before a byte of it is
loaded: deserialising a foreign plan ends in a null pointer at best. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, fields
from stat import S_ISREG
from typing import TYPE_CHECKING

from stc_export.spec import codec
from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_text
from stc_export.spec.manifest import GraphEntry, GraphParity

if TYPE_CHECKING:
    from pathlib import Path


SCHEMA = "stc.engines/1"
FOLDER = "engines"
RECORD_NAME = "seal.json"
_MAX_RECORD_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class GraphPrint:
    """What an engine was made from.

    Attributes:
        graph: Path of the graph.
        content: SHA-256 over the digests of its file and of its weights.
        profiles: SHA-256 over the shapes that it was built for.
    """

    graph: str
    content: str
    profiles: str


@dataclass(frozen=True)
class Fingerprint:
    """What engines are bound to. A field is ``None`` where the compiler does not bind them to it.

    Attributes:
        product: ``trt`` or ``trt-rtx``.
        version: Of the compiler, e.g. ``10.3.0``.
        device: Name of the GPU.
        sm: Its compute capability, e.g. ``8.7``.
        l4t: Release of Jetson Linux.
        graphs: What each engine was made from.
    """

    product: str
    version: str
    device: str | None
    sm: str | None
    l4t: str | None
    graphs: tuple[GraphPrint, ...]

    @property
    def key(self) -> str:
        """Name of the folder: 16 hexadecimal digits."""
        return hashlib.sha256(codec.to_json(self).encode()).hexdigest()[:16]

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Say in which fields another differs, e.g. ``version is 10.3.0, here 10.16.1``."""
        plain = [f.name for f in fields(self) if f.name != "graphs"]
        found = [(name, getattr(other, name), getattr(self, name)) for name in plain]
        lines = [f"{name} is {theirs}, here {ours}" for name, theirs, ours in found if theirs != ours]
        ours_of, theirs_of = ({row.graph: row for row in prints} for prints in (self.graphs, other.graphs))
        for graph in sorted(ours_of.keys() | theirs_of.keys()):
            ours, theirs = ours_of.get(graph), theirs_of.get(graph)
            if ours is None or theirs is None:
                lines.append(f"{graph} is there in one of them only")
            elif ours.content != theirs.content:
                lines.append(f"{graph} is another graph, or has other weights")
            elif ours.profiles != theirs.profiles:
                lines.append(f"{graph} was built for other shapes")
        return tuple(lines)


@dataclass(frozen=True)
class EngineEntry:
    """A plan.

    Attributes:
        graph: Path of its graph.
        file: Name beside the record.
        profiles: Names of its optimisation profiles in order; none if all shapes are static.
        size_bytes: Its size.
        sha256: Its digest.
        build_s: How long the compiler took.
    """

    graph: str
    file: str
    profiles: tuple[str, ...]
    size_bytes: int
    sha256: str
    build_s: float


@dataclass(frozen=True)
class CaseTiming:
    """How long a case of the goldens took, copies to and from the device included: all samples."""

    graph: str
    case: str
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class SealRecord:
    """Content of ``seal.json``.

    Attributes:
        schema: ``stc.engines/1``.
        writer: Program and version that wrote it, for people.
        fingerprint: What the engines are bound to.
        engines: One per graph of the bundle.
        parity: How far each engine is from the goldens.
        timings: How long each took.
        not_checked: Why there is neither parity nor timing, or only in part; ``None`` if every engine was checked.
    """

    schema: str
    writer: str
    fingerprint: Fingerprint
    engines: tuple[EngineEntry, ...]
    parity: tuple[GraphParity, ...]
    timings: tuple[CaseTiming, ...]
    not_checked: str | None


def read_record(folder: Path) -> SealRecord:
    """Read the record of a folder of engines.

    Raises:
        BundleError: There is none, or it cannot be used.
    """
    path = folder / RECORD_NAME
    try:
        record = codec.from_json(SealRecord, read_text(path, _MAX_RECORD_BYTES))
    except (OSError, ValueError) as error:
        reason = str(error).removesuffix(".")
        raise BundleError(f'"{path}" cannot be used ({reason}).', "Run stc-export seal again.") from error
    foreign = [entry.file for entry in record.engines if not _NAME.fullmatch(entry.file)]
    if foreign:
        raise BundleError(f'"{path}" names the plan "{foreign[0][:80]}", not one beside it.', "Seal the bundle again.")
    if record.schema != SCHEMA:
        raise BundleError(
            f'"{path}" has schema "{record.schema[:40]}", this version reads "{SCHEMA}".', "Run stc-export seal again."
        )
    return record


def plan_name(graph: GraphEntry) -> str:
    """Return the name of a graph's plan beside the record."""
    return f"{graph.file.rpartition('/')[2].removesuffix('.onnx')}.plan"


def is_whole(folder: Path, record: SealRecord) -> bool:
    """Whether a folder of engines has every plan, a plain file in the size that its record says."""
    try:
        found = [(folder / entry.file).lstat() for entry in record.engines]
    except OSError:
        return False
    sizes = [stat.st_size if S_ISREG(stat.st_mode) else None for stat in found]
    return sizes == [entry.size_bytes for entry in record.engines]


def read_records(bundle: Path) -> dict[Path, SealRecord]:
    """Return the folders of a bundle's engines with their records; one that cannot be used is as good as none."""
    found = {}
    for path in sorted((bundle / FOLDER).glob(f"*/{RECORD_NAME}")):
        with contextlib.suppress(BundleError):
            found[path.parent] = read_record(path.parent)
    return found


def find_whole(folder: Path) -> SealRecord | None:
    """Return the record of a folder of engines if they can be used."""
    try:
        record = read_record(folder)
    except BundleError:
        return None
    return record if is_whole(folder, record) else None


def find_engines(bundle: Path, wanted: Fingerprint) -> Path:
    """Return the folder of the engines of a bundle that are bound to exactly this.

    Args:
        bundle: Directory of the bundle.
        wanted: What they must be bound to.

    Raises:
        BundleError: There are none; the message says in which fields the nearest differ.
    """
    folder = bundle / FOLDER / wanted.key
    if find_whole(folder):
        return folder
    others = [wanted.differences(record.fingerprint) for record in read_records(bundle).values()]
    nearest = min(others, key=len, default=None)
    if not nearest:  # none, or those that are wanted, but not whole
        raise BundleError(
            f'"{bundle}" holds no engines that are whole.', f"Run stc-export seal {bundle} on this device."
        )
    shown = "; ".join(nearest[:3]) + (f"; and {len(nearest) - 3} more" if len(nearest) > 3 else "")
    raise BundleError(
        f'"{bundle}" holds no engines for this device: those it has differ ({shown}).',
        f"Run stc-export seal {bundle}, which builds them here.",
    )
