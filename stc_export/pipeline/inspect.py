"""Look into a bundle and compare every file with the manifest. Standard library only; nothing is executed or loaded."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.pipeline.types import FileFault, InspectResult, SealedEngines, SharedWeights, TunedPolicy
from stc_export.spec.calibration import RECORD_NAME, RoundingRecord, check_scales, read_record
from stc_export.spec.engines import RECORD_NAME as SEAL_NAME
from stc_export.spec.engines import SealRecord, is_whole, read_records
from stc_export.spec.errors import PolicyError
from stc_export.spec.files import file_digest
from stc_export.spec.manifest import MANIFEST_NAME, FileEntry, Manifest, read_manifest
from stc_export.spec.progress import Progress, Silent
from stc_export.spec.tuning import TUNING_FILES, read_tuning, tuned_policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def inspect(bundle: Path, progress: Progress | None = None) -> InspectResult:
    """Check every file of a bundle against its size and SHA-256, and list what is not as it should be.

    Args:
        bundle: Directory of the bundle. It may be a link; nothing inside may.
        progress: Receiver of the bytes that were read.

    Raises:
        BundleError: Not a bundle at all: no directory, no manifest, or a manifest that cannot be read; or scales in it
            were chosen for other graphs. A file that is missing or altered is a result, not an error.
    """
    manifest = read_manifest(bundle)
    total = sum(entry.size_bytes for entry in manifest.files)
    missing: list[str] = []
    altered: list[FileFault] = []
    with (progress or Silent()).stage("files", total, "B") as advance:
        for entry in manifest.files:
            try:
                problem = _find_problem(bundle, entry, advance)
            except FileNotFoundError:
                missing.append(entry.path)
                continue
            if problem is not None:
                altered.append(FileFault(entry.path, problem))
    engines = read_records(bundle)
    record = _record(bundle, manifest, {*missing, *(fault.path for fault in altered)})
    return InspectResult(
        bundle=bundle,
        manifest=manifest,
        total_bytes=total,
        weights=_shared_weights(manifest),
        missing=tuple(missing),
        altered=tuple(altered),
        unlisted=_unlisted(bundle, manifest, engines),
        engines=tuple(_engines_row(bundle, folder, record) for folder, record in engines.items()),
        ok=not missing and not altered,
        tuned=_tuned(bundle),
        rounded=() if record is None else record.files,
        activations=None if record is None else record.activations,
    )


def _record(bundle: Path, manifest: Manifest, broken: set[str]) -> RoundingRecord | None:
    """Return what the bundle says of all that is rounded in it, unless what it says is damaged."""
    if RECORD_NAME in broken or all(entry.path != RECORD_NAME for entry in manifest.files):
        return None
    record = read_record(bundle)
    check_scales(record, manifest)
    return record


def _find_problem(bundle: Path, entry: FileEntry, advance: Callable[[int], None]) -> str | None:
    """Return what is wrong with a listed file, or None; FileNotFoundError when it is missing."""
    path = bundle
    for part in entry.path.split("/"):  # a link anywhere on the way could lead out of the bundle
        path /= part
        try:
            found = path.lstat()
        except NotADirectoryError:
            return "a part of its path is not a directory"
        if stat.S_ISLNK(found.st_mode):
            return f'"{path.relative_to(bundle)}" is a link'
    if not stat.S_ISREG(found.st_mode):
        return "not a plain file"
    if found.st_size != entry.size_bytes:
        return f"{found.st_size} bytes, expected {entry.size_bytes}"
    try:
        digest = file_digest(path, advance)
    except PermissionError:
        return "may not be read by this user"
    return None if digest == entry.sha256 else "the content differs (SHA-256)"


def _tuned(bundle: Path) -> TunedPolicy | None:
    try:
        record = read_tuning(bundle)
    except PolicyError:
        return None
    if record is None:
        return None
    try:
        usable = tuned_policy(bundle) == record.policy
    except PolicyError:
        usable = False
    return TunedPolicy(f"{record.budget}={record.value:g}", record.chosen, usable)


def _shared_weights(manifest: Manifest) -> tuple[SharedWeights, ...]:
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    users: dict[str, list[str]] = {}
    for graph in manifest.graphs:
        for path in graph.weights:
            users.setdefault(path, []).append(f"{graph.role}/{graph.variant}")
    rows = [SharedWeights(path, sizes[path], tuple(graphs)) for path, graphs in users.items()]
    return tuple(sorted(rows, key=lambda row: (-row.size_bytes, row.path)))


def _engines_row(bundle: Path, folder: Path, record: SealRecord) -> SealedEngines:
    return SealedEngines(
        folder=folder.relative_to(bundle).as_posix(),
        fingerprint=record.fingerprint,
        count=len(record.engines),
        size_bytes=sum(entry.size_bytes for entry in record.engines),
        whole=is_whole(folder, record) and _is_unaltered(folder, record),
        not_checked=record.not_checked,
    )


def _is_unaltered(folder: Path, record: SealRecord) -> bool:
    try:
        return all(file_digest(folder / entry.file) == entry.sha256 for entry in record.engines)
    except OSError:  # may not be read by this user
        return False


def _unlisted(bundle: Path, manifest: Manifest, engines: Mapping[Path, SealRecord]) -> tuple[str, ...]:
    listed = {entry.path for entry in manifest.files} | {MANIFEST_NAME, *TUNING_FILES}
    for path, record in engines.items():
        ours = (SEAL_NAME, *(entry.file for entry in record.engines))
        listed |= {(path / name).relative_to(bundle).as_posix() for name in ours}
    found: list[str] = []
    for folder, directories, files in os.walk(bundle):  # does not follow links to directories, but names them
        here = Path(folder)
        names = files + [name for name in directories if (here / name).is_symlink()]
        found += [(here / name).relative_to(bundle).as_posix() for name in names]
    return tuple(sorted(set(found) - listed))
