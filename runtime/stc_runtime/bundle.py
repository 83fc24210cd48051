"""Open a bundle directory: check its files before anything in them is used."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.calibration import RECORD_NAME, check_scales, read_record
from stc_export.spec.errors import BundleError
from stc_export.spec.files import file_digest
from stc_export.spec.manifest import DTYPE_BYTES, FileEntry, GraphEntry, Manifest, TableEntry, read_manifest
from stc_export.spec.onnx_file import check_graph_file
from stc_runtime.dtypes import carrier
from stc_runtime.interface import check_interface

#: Files up to this size are hashed whenever a bundle is opened; larger ones by ``stc-export inspect``.
HASHED_WHEN_OPENED_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Attributes:
        root: Its directory.
        manifest: What it says of itself.
    """

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read and check a bundle: manifest, presence, kind and size of files, and the digest of smaller ones.

        What is in a graph is checked before the graph is used: :meth:`check_graph`.

        Raises:
            BundleError: It is missing, not a bundle, newer, its parts do not fit together, a file of it is missing or
                altered, or scales in it were chosen for other graphs.
        """
        manifest = read_manifest(path)
        check_interface(manifest, str(path))
        for entry in manifest.files:
            check_file(path, entry)
        if any(entry.path == RECORD_NAME for entry in manifest.files):
            check_scales(read_record(path), manifest)
        return cls(path, manifest)

    def check_graph(self, graph: GraphEntry) -> None:
        """Check the file of a graph, which takes about 10 ms: read it before a library for ONNX does.

        Raises:
            BundleError: It is not a graph that an export writes.
        """
        check_graph_file(self.root, graph)

    def table(self, name: str) -> NDArray[Any]:
        """Map a host table into memory, read-only, in the type that carries its own (see :mod:`stc_runtime.dtypes`).

        Raises:
            BundleError: There is no such table, or it does not lie inside its file.
        """
        entry = self.manifest.table(name)
        file = self.root / entry.file
        if not _inside(entry, file):
            raise BundleError(f'The table "{name}" does not lie inside "{entry.file}".', "Build the bundle again.")
        return np.memmap(file, dtype=carrier(entry.dtype), mode="r", offset=entry.offset_bytes, shape=entry.shape)


def check_file(root: Path, entry: FileEntry) -> None:
    """Check that a listed file is a plain file inside the bundle with the listed size, and its digest if it is small.

    Raises:
        BundleError: It is not.
    """
    path = root
    for part in entry.path.split("/"):
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise BundleError(f'"{entry.path}" is missing from "{root}".', "Copy or build the bundle again.") from error
        if stat.S_ISLNK(mode):
            raise BundleError(f'"{entry.path}" in "{root}" is a link.', "Copy the bundle with links resolved.")
    if not stat.S_ISREG(mode) or path.stat().st_size != entry.size_bytes:
        raise BundleError(
            f'"{entry.path}" in "{root}" is not the file of {entry.size_bytes:,} bytes that was built.',
            "Copy or build the bundle again.",
        )
    if entry.size_bytes <= HASHED_WHEN_OPENED_BYTES and file_digest(path) != entry.sha256:
        raise BundleError(f'"{entry.path}" in "{root}" was altered.', "Copy or build the bundle again.")


def _inside(entry: TableEntry, file: Path) -> bool:
    end = entry.offset_bytes + math.prod(entry.shape) * DTYPE_BYTES[entry.dtype]
    return min(entry.shape, default=1) >= 1 and entry.offset_bytes >= 0 and end <= file.stat().st_size
