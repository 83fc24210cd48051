"""Compare the outputs of a graph with those of the module that it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.manifest import GraphParity, OutputParity, Precision

#: Largest error that passes, relative to the largest absolute value of the reference.
#: fp32: random and real-size models measured 1e-6 to 2e-5 (sums in another order). fp16 against fp32: one rounding is
#: 5e-4 of a value, and 26 layers measured up to 6e-3.
TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
#: Share of a ranking that may differ: scores closer than the rounding error have no order.
RANKING_TOLERANCES: Mapping[Precision, float] = {"fp32": 0.02, "fp16": 0.2}

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ParityCase:
    """One feed of a graph with what should come out.

    Attributes:
        graph: Path of the graph in the bundle.
        name: What is fed, for the report.
        reference: Where the expectation comes from.
        feeds: Inputs of the graph.
        expected: Expected outputs, in float32 or int64. Outputs that are absent are not compared.
        rankings: Names of expected outputs that are sets of indices.
    """

    graph: str
    name: str
    reference: Literal["transformers", "module"]
    feeds: Arrays
    expected: Arrays
    rankings: frozenset[str] = frozenset()


def compare(case: ParityCase, found: Arrays, precision: Precision, layers: str) -> GraphParity:
    """Compare one case; outputs of many layers are reported as one row with the worst of them.

    Args:
        case: What was fed and expected.
        found: Outputs of the graph.
        precision: Chooses the tolerance.
        layers: Which layers ran, for the report.
    """
    worst: dict[str, OutputParity] = {}
    for name, expected in case.expected.items():
        if name in case.rankings:
            row = _ranking(name, found[name], expected, RANKING_TOLERANCES[precision])
        else:
            row = _numbers(name, found[name], expected, TOLERANCES[precision])
        group = re.sub(r"_\d+_", "_*_", name)
        if group not in worst or not row.max_rel <= worst[group].max_rel:
            worst[group] = OutputParity(group, row.max_abs, row.max_rel, row.cosine, row.tolerance, row.passed)
    return GraphParity(case.graph, case.name, case.reference, layers, tuple(worst.values()))


def _numbers(name: str, found: NDArray[Any], expected: NDArray[Any], tolerance: float) -> OutputParity:
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return OutputParity(name, _LARGE, _LARGE, 0.0, tolerance, passed=False)
    error = float(np.abs(a - b).max(initial=0.0))
    scale = float(np.abs(b).max(initial=0.0))
    relative = error / scale if scale > 0 else error
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms > 0 else 1.0
    return OutputParity(name, error, relative, cosine, tolerance, passed=relative <= tolerance)


def _ranking(name: str, found: NDArray[Any], expected: NDArray[Any], tolerance: float) -> OutputParity:
    missing = len(set(expected.tolist()) - set(found.tolist()))
    share = missing / max(1, len(expected))
    return OutputParity(name, float(missing), share, 1.0 - share, tolerance, passed=share <= tolerance)


#: Stands for a difference that cannot be computed (NaN, infinity, another shape): a manifest holds finite numbers only.
_LARGE = 1e30
