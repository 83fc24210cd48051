"""Compare the outputs of a graph with those of the module that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from stc_export.spec.goldens import Kind
from stc_export.spec.manifest import GraphParity, Precision
from stc_runtime.parity import COMPARED, Expectation, largest, worst_of_layers

#: What a graph computes in: the type of its activations, or what they are rounded to before linear layers; by scales
#: that were chosen from data, if it says so. And whether keys and values are kept in few bits.
Computed = Precision | Literal["int8", "int8 by data", "fp8 by data", "fp32, kv int8", "fp16, kv int8", "bf16, kv int8"]
#: Largest error that passes, relative to the largest absolute value of the reference.
#: fp32: random and real-size models measured 1e-6 to 2e-5 (sums in another order). fp16 against fp32: one rounding is
#: 5e-4 of a value, and 26 layers measured up to 6e-3. bf16 has three bits less: eight times as much.
#: int8: before each linear layer activations are off by up to 1/254 of the largest of their token, those of the
#: reference are not. 5 layers measured up to 2.1e-2; errors that add up like random ones are twice as large after 26.
#: By data: the picture of the check is unlike the data, and what is larger is cut off: 5 layers measured up to 6.8e-2
#: in int8 and 6.6e-2 in fp8.
TOLERANCES: Mapping[Computed, float] = {
    "fp32": 1e-4,
    "fp16": 2e-2,
    "bf16": 0.16,
    "int8": 0.1,
    "int8 by data": 0.2,
    "fp8 by data": 0.2,
    "fp32, kv int8": 0.05,
    "fp16, kv int8": 0.05,
    "bf16, kv int8": 0.2,
}
#: Share of a ranking that may differ: scores closer than the rounding error have no order.
RANKING_TOLERANCES: Mapping[Computed, float] = {
    "fp32": 0.02,
    "fp16": 0.2,
    "bf16": 0.2,
    "int8": 0.2,
    "int8 by data": 0.2,
    "fp8 by data": 0.2,
    "fp32, kv int8": 0.2,
    "fp16, kv int8": 0.2,
    "bf16, kv int8": 0.2,
}

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
        ranked: Names of those whose numbers stand in the order of a ranking, and are compared in ascending order.
    """

    graph: str
    name: str
    reference: Literal["transformers", "module"]
    feeds: Arrays
    expected: Arrays
    rankings: frozenset[str] = frozenset()
    ranked: frozenset[str] = frozenset()

    def kind(self, name: str) -> Kind:
        """How an output is compared."""
        return "ranking" if name in self.rankings else "sorted" if name in self.ranked else "numbers"


def compare(case: ParityCase, found: Arrays, computed: Computed, layers: str) -> GraphParity:
    """Compare one case; outputs of many layers are reported as one row with the worst of them.

    Args:
        case: What was fed and expected.
        found: Outputs of the graph.
        computed: Chooses the tolerance.
        layers: Which layers ran, for the report.
    """
    rows = []
    for name, expected in case.expected.items():
        kind = case.kind(name)
        tolerance = (RANKING_TOLERANCES if kind == "ranking" else TOLERANCES)[computed]
        rows.append(COMPARED[kind](Expectation(name, expected, tolerance, largest(expected)), found[name]))
    return GraphParity(case.graph, case.name, case.reference, layers, worst_of_layers(rows))
