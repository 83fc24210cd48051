"""Write down what the graphs of a bundle gave when it was built (see :mod:`stc_export.spec.goldens`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.exporter.parity import RANKING_TOLERANCES, TOLERANCES, ParityCase
from stc_export.spec import codec
from stc_export.spec.goldens import DATA_NAME, INDEX_NAME, Golden, GoldenIndex, GoldenInput, GoldenOutput
from stc_export.spec.manifest import Precision
from stc_runtime.dtypes import declared
from stc_runtime.parity import largest

Array = NDArray[Any]

#: Outputs of more elements are stored as a sample of at least this many.
_SAMPLE = 4096
#: Where a tensor begins in the data.
_ALIGNMENT = 64


class GoldenRecorder:
    """Takes in cases one after another; those of a graph must follow each other.

    Args:
        precision: Chooses the tolerances.
        backend: What runs the graphs, with its version.
    """

    def __init__(self, precision: Precision, backend: str) -> None:
        self._precision, self._backend = precision, backend
        self._cases: list[Golden] = []
        self._without: list[str] = []
        self._data = bytearray()
        self._places: dict[str, int] = {}
        self._before: tuple[str, Mapping[str, Array]] = ("", {})

    def add(self, case: ParityCase, found: Mapping[str, Array]) -> None:
        """Take in what a graph of the bundle gave."""
        graph, outputs = self._before
        earlier = {_digest(value): name for name, value in outputs.items()} if graph == case.graph else {}
        inputs = tuple(self._input(name, value, earlier) for name, value in case.feeds.items())
        rows = tuple(self._output(case, name, value) for name, value in found.items())
        self._cases.append(Golden(case.graph, case.name, inputs, rows))
        self._before = (case.graph, found)

    def leave_out(self, graph: str) -> None:
        """Take in that a graph could not be run whole."""
        if graph not in self._without:
            self._without.append(graph)

    def write(self, root: Path) -> tuple[str, ...]:
        """Write both files below ``root`` and return their paths."""
        index = GoldenIndex(self._backend, tuple(self._cases), tuple(self._without))
        (root / INDEX_NAME).parent.mkdir()
        (root / INDEX_NAME).write_text(codec.to_json(index), encoding="utf-8")
        (root / DATA_NAME).write_bytes(self._data)
        return INDEX_NAME, DATA_NAME

    def _input(self, name: str, value: Array, earlier: Mapping[str, str]) -> GoldenInput:
        dtype, shape = declared(value.dtype), value.shape
        if not value.any():
            return GoldenInput(name, dtype, shape)
        output = earlier.get(_digest(value))
        if output is not None:
            return GoldenInput(name, dtype, shape, output=output)
        return GoldenInput(name, dtype, shape, offset_bytes=self._store(value))

    def _output(self, case: ParityCase, name: str, value: Array) -> GoldenOutput:
        kind = case.kind(name)
        kept = [len(case.expected[ranking]) for ranking in case.rankings]
        if kind == "numbers" and value.ndim > 1 and [value.shape[0]] == kept:
            kind = "rows"
        stride = max(1, value.size // _SAMPLE) if kind == "numbers" else 1
        tolerance = (RANKING_TOLERANCES if kind == "ranking" else TOLERANCES)[self._precision]
        dtype = declared(value.dtype)
        place = self._store(value.ravel()[::stride])
        return GoldenOutput(name, dtype, value.shape, stride, place, largest(value), tolerance, kind)

    def _store(self, value: Array) -> int:
        digest = _digest(value)
        if digest not in self._places:
            self._data += b"\0" * (-len(self._data) % _ALIGNMENT)
            self._places[digest] = len(self._data)
            self._data += np.ascontiguousarray(value).tobytes()
        return self._places[digest]


def _digest(value: Array) -> str:
    return hashlib.sha256(value.dtype.name.encode() + np.ascontiguousarray(value).tobytes()).hexdigest()
