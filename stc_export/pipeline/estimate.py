"""What a bundle and a session of it will need, computed from headers and sizes without reading a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_export.exporter.graphs import GraphDef, SplitModel
from stc_export.exporter.names import parameter_names
from stc_export.exporter.weights import StoredTensor, file_bytes, layout
from stc_export.families.base import StoredFiles
from stc_export.pipeline.precisions import Precisions
from stc_export.pipeline.types import PlannedGraph, SizeEstimate
from stc_export.spec.dims import ModelDims
from stc_export.spec.interface import session_graphs
from stc_export.spec.manifest import DTYPE_BYTES, DType
from stc_export.spec.memory import kv_slots
from stc_export.spec.policy import Policy
from stc_runtime.footprint import feature_cache_bytes, kv_bytes

if TYPE_CHECKING:
    from stc_engines.table import Backend, Streams


def stored_files(split: SplitModel) -> StoredFiles:
    """Return where every weight will lie."""
    return {file: layout(file, recipes) for file, recipes in split.weights.items()}


def planned_graphs(split: SplitModel, precisions: Precisions) -> tuple[PlannedGraph, ...]:
    """Return every graph with the bytes of the weights that it refers to."""
    stored = stored_files(split)
    return tuple(
        PlannedGraph(g.role, g.variant, precisions.of(g.role), _graph_weights(g, stored)) for g in split.graphs
    )


def estimate(
    split: SplitModel, dims: ModelDims, policy: Policy, precisions: Precisions, backend: Backend
) -> SizeEstimate:
    """Estimate disk and memory for one session with a policy; ``backend`` is that of the target.

    Raises:
        PolicyError: The policy's memory does not fit the model.
    """
    stored = stored_files(split)
    session = session_graphs(policy)
    weights = sum(_graph_weights(g, stored) for g in split.graphs if session[g.role] == g.variant)
    disk = sum(file_bytes(recipes) for recipes in split.weights.values())
    return session_size(Stored(disk, weights), dims, policy, precisions, backend)


@dataclass(frozen=True)
class Stored:
    """Bytes of a bundle, and of the weights that the graphs of a session refer to."""

    disk_bytes: int
    weights_bytes: int


def session_size(
    stored: Stored, dims: ModelDims, policy: Policy, precisions: Precisions, backend: Backend
) -> SizeEstimate:
    """Estimate what a session needs; ``backend`` is that of the target.

    Raises:
        PolicyError: The policy's memory does not fit the model.
    """
    capacity, dtype = kv_slots(policy.memory, dims.text.context), precisions.dtype
    return SizeEstimate(
        disk_bytes=stored.disk_bytes,
        weights_bytes=stored.weights_bytes,
        feature_cache_bytes=feature_cache_bytes(
            dims, policy.cacher.selection, policy.cacher.update, dtype, in_place=backend.in_place
        ),
        kv_bytes=kv_bytes(dims, capacity, dtype, precisions.kv),
        activations_bytes=_AT_ONCE[backend.streams](_activations(dims, capacity, dtype)),
    )


#: Python, numpy, tokenizers and ONNX Runtime with small graphs open: 85 to 88 MB on Linux, x86-64.
_PROCESS_BYTES = 86_000_000
#: ONNX Runtime's arenas grow in steps and keep what they took: 2.2 times the widest moment with SigLIP so400m layers.
_ARENA = 2.2


def resident_bytes(size: SizeEstimate, dtype: DType) -> int:
    """Return the resident memory of a process on a CPU with one session, from what the session needs.

    Weights are copied into the form that ONNX Runtime computes with, which is float32 on a CPU; the mapped files that
    they came from are given back.
    """
    wide = DTYPE_BYTES["float32"] // DTYPE_BYTES[dtype]
    state = size.feature_cache_bytes + size.kv_bytes
    return _PROCESS_BYTES + wide * size.weights_bytes + state + int(_ARENA * wide * size.activations_bytes)


def _graph_weights(graph: GraphDef, stored: StoredFiles) -> int:
    places: dict[str, StoredTensor] = {}
    for file in graph.weight_files:
        places.update(stored[file])
    return sum(places[name].nbytes for name in parameter_names(graph))


#: What the activations of ViT and LLM need together: with a stream for each they are there at the same time.
_AT_ONCE: Mapping[Streams, Callable[[tuple[int, int]], int]] = {"one": max, "two": sum}


def _activations(dims: ModelDims, capacity: int, dtype: DType) -> tuple[int, int]:
    """The widest moments of ViT and LLM: hidden MLP rows, or scores of all heads with their softmax."""
    vision, text = dims.vision, dims.text
    size = DTYPE_BYTES[dtype]
    vit = vision.tokens * max(3 * vision.mlp_width, 2 * vision.heads * vision.tokens)
    steps = vision.visual_tokens
    llm = steps * max(5 * text.mlp_width, 3 * text.heads * (capacity + steps))
    return vit * size, llm * size
