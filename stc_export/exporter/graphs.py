"""What a family hands to the exporter: modules to trace, with declared interfaces, and recipes for their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stc_calib.schemes import Scheme
from stc_export.exporter.weights import WeightRecipe
from stc_export.spec.interface import Interface
from stc_export.spec.manifest import (
    DType,
    Flavour,
    GraphEntry,
    KVFormat,
    Precision,
    PrunerEntry,
    QuantisedPrecision,
    Role,
    TensorSpec,
)
from stc_export.spec.policy import Metric


@dataclass(frozen=True)
class GraphForm:
    """In which form the graphs of a model are written.

    Attributes:
        flavour: Operators that they are made of.
        dtype: Type of activations and large weights.
        slots: Slots of the KV memory, for graphs of which their number is a part.
        metrics: Metrics that there are graphs for; ``cosine`` is one of them.
        attention: Whether ``vit`` gives the attention that tokens received, and there are the methods that use it.
        schemes: How weights of linear layers are rounded, for the roles whose weights are.
        head: How the output matrix of the LLM is rounded, if it is.
        kv: How keys and values of the LLM are kept.
        embed: How the embedding table of the host is rounded, if it is.
    """

    flavour: Flavour
    dtype: DType
    slots: int
    metrics: tuple[Metric, ...] = ("cosine",)
    attention: bool = False
    schemes: Mapping[Role, Scheme] = field(default_factory=dict)
    head: Scheme | None = None
    kv: KVFormat = "floats"
    embed: Scheme | None = None


@dataclass(frozen=True)
class DimRange:
    """Bounds of a dynamic dimension, and the interior value with which it is traced.

    Bounds and 0 or 1 are special-cased by ``torch.export``, therefore the example lies strictly inside.
    """

    least: int
    most: int
    example: int


@dataclass(frozen=True)
class GraphDef:
    """One graph to be traced.

    Attributes:
        role: Role in the bundle.
        variant: Form of the role.
        module: Creates the module; called with the meta device active, so that it holds no data.
        interface: Declared inputs and outputs, in the order of the flattened arguments and results.
        nest: Turns a flat sequence (one item per input) into the arguments of ``forward``.
        dims: Every letter that occurs in the shapes.
        weight_files: Files in which its parameters are found by name.
        flavour: Chooses the opset.
    """

    role: Role
    variant: str
    module: Callable[[], Any]
    interface: Interface
    nest: Callable[[Sequence[Any]], tuple[Any, ...]]
    dims: Mapping[str, DimRange]
    weight_files: tuple[str, ...]
    flavour: Flavour = "base"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Declared inputs."""
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Declared outputs."""
        return self.interface.outputs

    @property
    def file(self) -> str:
        """Path of the ONNX file in the bundle."""
        stem = self.role if self.variant == "default" else f"{self.role}.{self.variant}"
        return f"graphs/{stem}.onnx"


def graph_entry(
    graph: GraphDef, file: str, weights: tuple[str, ...], precision: Precision | QuantisedPrecision
) -> GraphEntry:
    """Return what a manifest says of a graph that was traced to ``file`` and refers to ``weights``."""
    return GraphEntry(graph.role, graph.variant, file, weights, graph.inputs, graph.outputs, precision)


@dataclass(frozen=True)
class TableDef:
    """A tensor that the host reads itself: its name in the manifest and in the weight file."""

    name: str
    stored: str


@dataclass(frozen=True)
class SplitModel:
    """A model taken apart: graphs, weight files (file name -> recipes), host tables and pruning methods."""

    graphs: tuple[GraphDef, ...]
    weights: Mapping[str, tuple[WeightRecipe, ...]]
    tables: tuple[TableDef, ...]
    pruners: tuple[PrunerEntry, ...]
