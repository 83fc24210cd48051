"""Names of a graph's weights, from its module on the meta device."""

from __future__ import annotations

import torch

from stc_export.exporter.graphs import GraphDef


def parameter_names(graph: GraphDef) -> tuple[str, ...]:
    """Return the names of the parameters of a graph's module; nothing is allocated."""
    with torch.device("meta"):
        return tuple(name for name, _ in graph.module().named_parameters())
