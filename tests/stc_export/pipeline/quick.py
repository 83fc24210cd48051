"""Builds without tracing: graphs of a finished bundle with the weights looked up again, which takes a second."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import onnx
import pytest

from stc_export.pipeline.plan import Prepared, prepare
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stc_export.exporter.graphs import GraphDef
    from stc_export.exporter.weights import StoredTensor

    Trace = Callable[[GraphDef, Mapping[str, Mapping[str, StoredTensor]], Path], tuple[str, ...]]


def retrace(bundle: Path) -> Trace:
    """A stand-in for ``trace`` that takes graphs from a bundle of the same sizes."""

    def trace(graph: GraphDef, stored: Mapping[str, Mapping[str, StoredTensor]], path: Path) -> tuple[str, ...]:
        model = onnx.load(bundle / graph.file, load_external_data=False)
        places = {name: place for file in graph.weight_files for name, place in stored[file].items()}
        files = set()
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            place = places[tensor.name]
            for item in tensor.external_data:
                item.value = {"location": place.file, "offset": str(place.offset), "length": str(place.length)}[
                    item.key
                ]
            files.add(place.file)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return tuple(sorted(files))

    return trace


def install(patch: pytest.MonkeyPatch, bundle: Path) -> None:
    """Let builds take their graphs from a bundle."""
    for module in ("build", "check"):
        patch.setattr(f"stc_export.pipeline.{module}.trace", retrace(bundle))


def prepared(directory: Path, out: Path, **changes: object) -> Prepared:
    """A checked request for a checkpoint directory."""
    return prepare(BuildRequest(str(directory), out=out, **changes), Source(directory, directory.name))  # type: ignore[arg-type]


def contents(root: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def beside(folder: Path) -> list[str]:
    """Names of all that lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def forbidden(*_: object, **__: object) -> None:
    """Stand-in for work that must not be started."""
    raise AssertionError("work was done before the output was checked")
