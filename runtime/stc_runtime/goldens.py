"""Check engines against what the graphs gave when the bundle was built (see :mod:`stc_export.spec.goldens`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_text
from stc_export.spec.goldens import (
    DATA_NAME,
    INDEX_NAME,
    MAX_INDEX_BYTES,
    Golden,
    GoldenIndex,
    GoldenOutput,
    index_from_text,
)
from stc_export.spec.manifest import DType, GraphParity, OutputParity
from stc_runtime.backends.base import Arrays, Engine
from stc_runtime.dtypes import carrier
from stc_runtime.parity import COMPARED, Expectation, worst_of_layers

Array = NDArray[Any]


@dataclass(frozen=True)
class Goldens:
    """The goldens of a bundle.

    Attributes:
        index: The cases.
        data: uint8: their numbers, mapped.
    """

    index: GoldenIndex
    data: NDArray[np.uint8]

    @classmethod
    def open(cls, root: Path) -> Goldens:
        """Open the goldens of a bundle.

        Raises:
            BundleError: It has none, or they cannot be used.
        """
        path = root / INDEX_NAME
        try:
            text, size = read_text(path, MAX_INDEX_BYTES), (root / DATA_NAME).stat().st_size
            data = np.memmap(root / DATA_NAME, dtype=np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        except FileNotFoundError as error:
            raise BundleError(
                f'"{root}" has no goldens to check engines with.', "Build the bundle again with this version."
            ) from error
        except (OSError, ValueError) as error:
            raise BundleError(
                f'The goldens of "{root}" cannot be read ({error}).', "Build the bundle again."
            ) from error
        return cls(index_from_text(text, str(root), size), data)

    def stored(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> Array:
        """Return a copy of a stored tensor."""
        kind = carrier(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return np.frombuffer(self.data[offset : offset + size].tobytes(), kind).reshape(shape)


OnCase = Callable[[str, Callable[[], object]], None]


def run_goldens(goldens: Goldens, graph: str, engine: Engine, on_case: OnCase) -> tuple[GraphParity, ...]:
    """Run all cases of a graph.

    Args:
        goldens: Of the bundle.
        graph: Path of the graph.
        engine: The graph, made ready by any backend.
        on_case: Called with the name of each case and what runs it once more, to be timed.

    Returns:
        A row per case; none behind one that failed, since what it gave may go into the next.
    """
    return tuple(_run_cases(goldens, graph, engine, on_case))


def _run_cases(goldens: Goldens, graph: str, engine: Engine, on_case: OnCase) -> Iterator[GraphParity]:
    found: Arrays = {}
    for case in goldens.index.cases:
        if case.graph != graph:
            continue
        feeds = _feeds(goldens, case, found)
        try:
            found = engine.run(feeds, {})
        except ValueError as error:  # the index is foreign data
            raise _misfit(case) from error
        if found.keys() != {row.name for row in case.outputs}:
            raise _misfit(case)
        on_case(case.case, partial(engine.run, feeds, {}))
        parity = GraphParity(graph, case.case, "goldens", "as built", worst_of_layers(_compare(goldens, case, found)))
        yield parity
        if not parity.passed:
            return


def _misfit(case: Golden) -> BundleError:
    return BundleError(f'The goldens of "{case.graph}" ({case.case}) do not fit the graph.', "Build the bundle again.")


def _feeds(goldens: Goldens, case: Golden, before: Mapping[str, Array]) -> dict[str, Array]:
    feeds = {}
    for fed in case.inputs:
        if fed.output is not None:
            feeds[fed.name] = np.ascontiguousarray(before[fed.output].reshape(fed.shape), carrier(fed.dtype))
        elif fed.offset_bytes is not None:
            feeds[fed.name] = goldens.stored(fed.offset_bytes, fed.dtype, fed.shape)
        else:
            feeds[fed.name] = np.zeros(fed.shape, carrier(fed.dtype))
    return feeds


def _compare(goldens: Goldens, case: Golden, found: Mapping[str, Array]) -> Iterator[OutputParity]:
    ranking = next((row for row in case.outputs if row.kind == "ranking"), None)
    wanted = None if ranking is None else _stored(goldens, ranking)
    for row in case.outputs:
        expected, got = _stored(goldens, row), found[row.name]
        if row.kind != "ranking" and got.shape != row.shape:
            got = np.full(0, np.nan)  # compares as another shape does
        elif row.kind == "rows" and ranking is not None and wanted is not None:
            _, ours, theirs = np.intersect1d(wanted, found[ranking.name], return_indices=True)
            expected, got = expected.reshape(row.shape)[ours], got[theirs]
        else:
            got = got.ravel()[:: row.stride]
        yield COMPARED[row.kind](Expectation(row.name, expected, row.tolerance, row.scale), got)


def _stored(goldens: Goldens, row: GoldenOutput) -> Array:
    return goldens.stored(row.offset_bytes, row.dtype, (row.count,))
