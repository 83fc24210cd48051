"""How far an array is from what it should be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.goldens import Kind
from stc_export.spec.manifest import OutputParity
from stc_runtime.dtypes import widened

#: Stands for a difference that cannot be computed (NaN, infinity, another shape): a manifest holds finite numbers only.
_LARGE = 1e30


@dataclass(frozen=True)
class Expectation:
    """What an output should be.

    Attributes:
        name: Of the output.
        values: Numbers of any shape.
        tolerance: Largest difference that passes, relative to ``scale``.
        scale: What differences are compared with; 0: they count as they are.
    """

    name: str
    values: NDArray[Any]
    tolerance: float
    scale: float


def largest(values: NDArray[Any]) -> float:
    """Return the largest absolute value; 0 for nothing."""
    return float(np.abs(widened(values).astype(np.float64)).max(initial=0.0))


def compare_numbers(expected: Expectation, found: NDArray[Any]) -> OutputParity:
    """Compare two arrays of one shape."""
    a, b = (widened(values).astype(np.float64).ravel() for values in (found, expected.values))
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return OutputParity(expected.name, _LARGE, _LARGE, 0.0, expected.tolerance, passed=False)
    error = float(np.abs(a - b).max(initial=0.0))
    relative = error / expected.scale if expected.scale > 0 else error
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms > 0 else 1.0
    passed = relative <= expected.tolerance
    return OutputParity(expected.name, error, relative, cosine, expected.tolerance, passed=passed)


def compare_sorted(expected: Expectation, found: NDArray[Any]) -> OutputParity:
    """Compare two arrays whose elements stand in the order of a ranking: in ascending order."""
    wanted = replace(expected, values=np.sort(widened(expected.values).ravel()))
    return compare_numbers(wanted, np.sort(widened(found).ravel()))


def compare_rankings(expected: Expectation, found: NDArray[Any]) -> OutputParity:
    """Compare two sets of indices; ``max_rel`` is the share of the expected ones that is missing."""
    missing = len(set(expected.values.ravel().tolist()) - set(found.ravel().tolist()))
    share = missing / max(1, expected.values.size)
    passed = share <= expected.tolerance
    return OutputParity(expected.name, float(missing), share, 1.0 - share, expected.tolerance, passed=passed)


#: By how an output is compared; rows are numbers once those that belong together stand beside each other.
COMPARED: Mapping[Kind, Callable[[Expectation, NDArray[Any]], OutputParity]] = {
    "numbers": compare_numbers,
    "rows": compare_numbers,
    "ranking": compare_rankings,
    "sorted": compare_sorted,
}


def worst_of_layers(rows: Iterable[OutputParity]) -> tuple[OutputParity, ...]:
    """Return one row for outputs that differ only in the number of their layer: that of the worst of them."""
    worst: dict[str, OutputParity] = {}
    for row in rows:
        group = re.sub(r"_\d+_", "_*_", row.output)
        if group not in worst or not row.max_rel <= worst[group].max_rel:
            worst[group] = replace(row, output=group)
    return tuple(worst.values())
