"""For tests of applications: a backend that runs the graphs of any bundle without ONNX Runtime and without weights.

Example::

    with StreamSession.open("llava.stc", backend=FakeBackend()) as stream:
        ...

It has the interface of a real one: names, types, shapes, outputs written in place, and the errors of a wrong call. A
still scene is skipped, changed patches are recomputed, and answers depend on everything that the stream remembers. What
the numbers say is nothing; a call with the same arrays gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import BundleError
from stc_export.spec.interface import KV_STATE, kv_format
from stc_export.spec.manifest import GraphEntry
from stc_runtime.backends.base import Arrays, Engine, Tensors, check_arrays
from stc_runtime.backends.store import HostMemory, host_arrays
from stc_runtime.dtypes import carrier, narrowed, widened
from stc_runtime.memory.coding import CODINGS

Array = NDArray[Any]

#: Patch means of 0..255 times this are angles, so that a change of a tenth of the range makes a patch another one.
_ANGLE = 0.1
#: Angle from one made-up number to the next; no fraction of a turn, so that none comes twice.
_STEP = 2.399963
_EPS = 1e-12


class FakeBackend(HostMemory):
    """Opens every graph of every bundle. Nothing of the graph's file is read."""

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Open a graph (see :class:`stc_runtime.backends.base.Backend`).

        Raises:
            BundleError: The graph's file is missing.
        """
        if not (root / graph.file).is_file():
            raise BundleError(f'"{graph.file}" is missing from "{root}".', "Copy or build the bundle again.")
        return FakeEngine(graph)


class FakeEngine:
    """Computes the outputs of one graph with a few lines of arithmetic."""

    def __init__(self, graph: GraphEntry) -> None:
        """Take the declared interface.

        Args:
            graph: Entry of the graph in the manifest.
        """
        self._graph = graph
        self._compute: Callable[[GraphEntry, Arrays], Iterator[tuple[str, Array]]] = {
            "cacher_gate": _gate,
            "vit": _vit,
            "pruner": _pruner,
            "llm": _llm,
        }[graph.role]

    def run(self, feeds: Tensors, into: Tensors) -> dict[str, Array]:
        """Run once (see :class:`stc_runtime.backends.base.Engine`)."""
        check_arrays(self._graph, feeds, into)
        places = host_arrays(into)
        # All before any is written: an output may lie over an input. What is not finite comes out as it went in.
        with np.errstate(all="ignore"):
            numbers = {name: widened(array) for name, array in host_arrays(feeds).items()}
            values = dict(self._compute(self._graph, numbers))
        fresh = {}
        for spec in self._graph.outputs:
            value = narrowed(values[spec.name], carrier(spec.dtype)).copy()
            if spec.name in places:
                places[spec.name][...] = value
            else:
                fresh[spec.name] = value
        return fresh


def _widened(x: Array, width: int) -> Array:
    """Return x [N, C] as [N, width]: its columns over and over, each with a share of all of them."""
    wide: Array = x[:, np.arange(width) % x.shape[1]] + x.mean(axis=1, keepdims=True)
    return wide


def _cosine(a: Array, b: Array) -> NDArray[np.float32]:
    """Return the cosine of each row of ``a`` [N, C] with the same row of ``b``; 0 where one of them is zero."""
    norms = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    cosine: NDArray[np.float32] = (a * b).sum(axis=-1) / (norms + _EPS)
    return cosine


def _gate(graph: GraphEntry, feeds: Arrays) -> Iterator[tuple[str, Array]]:
    frame, reference = feeds["frame"].astype(np.float32), feeds["reference"].astype(np.float32)
    grid = math.isqrt(len(reference))
    patch = frame.shape[0] // grid
    patches = frame[: grid * patch, : grid * patch].reshape(grid, patch, grid, patch, 3)
    means = patches.mean(axis=(1, 3)).reshape(grid * grid, 3)
    phases = _STEP * np.arange(reference.shape[1], dtype=np.float32)
    embeddings = np.cos(_ANGLE * _widened(means, len(phases)) + phases).astype(feeds["reference"].dtype)
    now = embeddings.astype(np.float32)
    similarity = _cosine(now, reference)
    change = np.linalg.norm(now - reference) / (np.linalg.norm(reference) + _EPS)
    yield "patch_embeddings", embeddings
    yield "similarity", similarity
    yield "statistics", np.array([similarity.mean(), similarity.min(), change])


def _vit(graph: GraphEntry, feeds: Arrays) -> Iterator[tuple[str, Array]]:
    """Recomputed tokens get new features and a new state; the first R where the graph itself would choose."""
    embeddings = feeds["patch_embeddings"]
    tokens = feeds["indices"] if "indices" in feeds else np.arange(len(feeds["carrier"]))
    rows = np.sin(embeddings[tokens].astype(np.float32))
    features = embeddings.copy()
    features[tokens] = rows
    yield "features", features
    yield "attention", rows.mean(axis=0)[np.arange(len(embeddings)) % rows.shape[1]]
    for name in (spec.name for spec in graph.inputs if spec.name.endswith("_in")):
        state = feeds[name].copy()
        if state.ndim == 2:
            state[tokens] = rows
        else:  # [heads, T, head_dim]
            state[:, tokens] = rows.reshape(len(tokens), state.shape[0], -1).transpose(1, 0, 2)
        yield name.removesuffix("_in") + "_out", state


def _pruner(graph: GraphEntry, feeds: Arrays) -> Iterator[tuple[str, Array]]:
    """Keep tokens at even distances; the history only adds to what they hold."""
    features = feeds["features"].astype(np.float32)
    grid = math.isqrt(len(features))
    pooled = np.arange(0, grid, 2)
    corners = features.reshape(grid, grid, -1)[np.ix_(pooled, pooled)].reshape(len(pooled) ** 2, -1)
    width = next(int(spec.shape[1]) for spec in graph.outputs if spec.name == "visual_tokens")
    tokens = _widened(corners, width)
    kept = len(feeds["carrier"]) if "carrier" in feeds else len(tokens)
    indices = np.arange(kept) * len(tokens) // kept
    if "history" in feeds:
        tokens += (feeds["history_weights"] @ feeds["history"]).mean()
        yield "history_entry", np.resize(tokens.mean(axis=0), feeds["history"].shape[1])  # cut or repeated
    yield "visual_tokens", tokens[indices]
    yield "kept_indices", indices


def _kept(feeds: Arrays, past: Array, rows: Array) -> Array:
    """Return the new rows, or the past with them in it if the graph writes it itself."""
    if "write_slot" not in feeds:
        return rows
    whole, slot = past.copy(), int(feeds["write_slot"][0])
    whole[:, :, slot : slot + rows.shape[2]] = rows
    return whole


def _llm(graph: GraphEntry, feeds: Arrays) -> Iterator[tuple[str, Array]]:
    """Keys and values hold what a token is and where; the logits are a function of all that are not hidden."""
    embeds = feeds["inputs_embeds"][0].astype(np.float32)
    seen = feeds["past_bias"][0] == 0
    total = np.zeros(1, np.float32)
    state = [spec.name for spec in graph.inputs if spec.name.endswith("_in")]
    kinds = [tensor.name for tensor in KV_STATE[kv_format(graph)]]
    layers, half = len(state) // len(kinds), len(kinds) // 2
    coding, kind = CODINGS[kv_format(graph)], feeds["past_bias"].dtype
    for names, layer in product((kinds[:half], kinds[half:]), range(layers)):
        past = [feeds[f"{name}_{layer}_in"] for name in names]
        _, heads, _, width = past[0].shape
        new = np.sin(_widened(embeds, heads * width) + feeds["position_ids"][0][:, None])
        fresh = coding.keep(new.reshape(len(embeds), heads, width).transpose(1, 0, 2)[None], kind)
        total = total + coding.rows(past)[:, :, seen].sum(dtype=np.float32) + new.sum()
        for name, before, rows in zip(names, past, fresh, strict=True):
            yield f"{name}_{layer}_out", _kept(feeds, before, rows)
    vocabulary = next(int(spec.shape[1]) for spec in graph.outputs if spec.name == "logits")
    yield "logits", np.sin(total + _STEP * np.arange(vocabulary, dtype=np.float32) ** 2)[None]
