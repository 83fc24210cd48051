"""The parity check at the end of a build: every graph against the module that it came from, on a real picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_calib.rounding import Rounded, restore_weights, unpack_codes
from stc_export.exporter.activations import write_activations
from stc_export.exporter.goldens import GoldenRecorder
from stc_export.exporter.graphs import graph_entry
from stc_export.exporter.parity import Arrays, compare
from stc_export.exporter.rounded import rounded_checkpoint
from stc_export.exporter.stand_in import FORM, needs_stand_in, write_stand_in
from stc_export.exporter.trace import trace
from stc_export.exporter.weights import StoredTensor
from stc_export.families.base import FamilyModel, LayerSample, ParityInputs, StoredFiles
from stc_export.pipeline.estimate import stored_files
from stc_export.pipeline.plan import Prepared
from stc_export.spec.calibration import ActivationRecord
from stc_export.spec.dims import ModelDims
from stc_export.spec.manifest import GraphEntry, GraphParity
from stc_export.spec.progress import Progress
from stc_runtime.backends.base import Engine
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.dtypes import carrier

#: Parts of a model with more float32 weights than this are checked on a sample of layers.
SAMPLE_ABOVE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Checked:
    """What the check found, and the paths of the goldens that it wrote."""

    parity: tuple[GraphParity, ...]
    goldens: tuple[str, ...]


def check_parity(
    prepared: Prepared,
    graphs: tuple[GraphEntry, ...],
    scales: ActivationRecord | None,
    root: Path,
    progress: Progress,
) -> Checked:
    """Run every graph on the CPU, compare, and write the goldens.

    Large models are checked on stated layers, nothing is skipped; a graph of which only some layers ran has no goldens.

    Args:
        prepared: The build.
        graphs: Graphs as written.
        scales: Scales of activations in them, if there are any.
        root: Directory that holds them.
        progress: Receiver of progress.
    """
    dims = prepared.model.dims
    sample = layer_sample(dims, SAMPLE_ABOVE_BYTES)
    stored = prepared.model.sampled_weights(stored_files(prepared.split), sample)
    model = prepared.model.sampled(sample)
    tables = {table.stored for table in prepared.split.tables}
    # The host's own are in no graph. They can have the source of a matrix that is rounded otherwise.
    recipes = [recipe for rows in prepared.split.weights.values() for recipe in rows if recipe.name not in tables]
    own = nullcontext({graph.file: graph for graph in graphs})
    checked = own if model == prepared.model else _sampled_graphs(prepared, model, stored, scales, root)
    with checked as chosen, stand_ins(chosen, root) as runnable:
        runner = _Runner(root, runnable)
        form = f", {FORM}" if runnable != chosen else ""
        recorder = GoldenRecorder(f"{runner.backend.title}{form}")
        inputs = ParityInputs(
            checkpoint=rounded_checkpoint(prepared.checkpoint, recipes),
            sample=sample,
            preprocessing=prepared.preprocessing,
            form=prepared.form,
            run=runner.run,
            weight=lambda file, name: read_weight(root / "graphs", stored, file, name),
            weight_names=stored,
        )
        reports = []
        with progress.stage("parity", None, "cases") as advance:
            for case in model.parity_cases(inputs):
                found = runner.run(case.graph, case.feeds)
                layers = run_layers(case.graph, sample, dims)
                computed = prepared.precisions.computed(chosen[case.graph].role)
                reports.append(compare(case, found, computed, f"{layers.text}{form}"))
                if layers.all:
                    recorder.add(case, found, computed)
                else:
                    recorder.leave_out(case.graph)
                advance(1)
    return Checked(tuple(reports), recorder.write(root))


def layer_sample(dims: ModelDims, limit_bytes: int) -> LayerSample:
    """Return the layers to check: all of a part that fits ``limit_bytes`` as float32, else first, middle, last.

    Of an output matrix that takes more than half of that it has the rows that an eighth holds.
    """
    vision, text = dims.vision, dims.text
    vit = vision.layers * vision.width * (4 * vision.width + 2 * vision.mlp_width)
    llm = (
        text.layers
        * text.width
        * (2 * text.heads * text.head_dim + 2 * text.kv_heads * text.head_dim + 3 * text.mlp_width)
    )
    row = 4 * text.width
    outputs = text.vocab if text.vocab * row <= limit_bytes // 2 else max(1, limit_bytes // 8 // row)
    return LayerSample(
        _sample(vision.layers, vit * 4, limit_bytes), _sample(text.layers, llm * 4, limit_bytes), outputs
    )


def _sample(layers: int, size_bytes: int, limit_bytes: int) -> tuple[int, ...]:
    if size_bytes <= limit_bytes:
        return tuple(range(layers))
    return tuple(sorted({0, layers // 2, layers - 1}))


@dataclass(frozen=True)
class RunLayers:
    """Which layers of a graph ran.

    Attributes:
        all: Whether it was all of them.
        text: For a report, e.g. ``all 26``, ``sample 0, 13, 25 of 26`` or ``all 24, 18724 of 152064 outputs``.
    """

    all: bool
    text: str


def run_layers(graph: str, sample: LayerSample, dims: ModelDims) -> RunLayers:
    """Say which layers of a graph ran."""
    if graph.startswith("graphs/vit"):
        return _run_layers(sample.vision, dims.vision.layers)
    if graph.startswith("graphs/llm"):
        layers, vocab = _run_layers(sample.text, dims.text.layers), dims.text.vocab
        cut = "" if sample.outputs == vocab else f", {sample.outputs} of {vocab} outputs"
        return RunLayers(layers.all and not cut, f"{layers.text}{cut}")
    return RunLayers(all=True, text="whole graph")


def _run_layers(chosen: tuple[int, ...], total: int) -> RunLayers:
    if len(chosen) == total:
        return RunLayers(all=True, text=f"all {total}")
    return RunLayers(all=False, text=f"sample {', '.join(map(str, chosen))} of {total}")


@contextmanager
def _sampled_graphs(
    prepared: Prepared, model: FamilyModel, stored: StoredFiles, scales: ActivationRecord | None, root: Path
) -> Iterator[Mapping[str, GraphEntry]]:
    """Yield graphs over the same weights as the bundle's own with only the sampled layers."""
    steps = {} if scales is None else _sampled_steps(scales, stored_files(prepared.split), stored)
    entries: dict[str, GraphEntry] = {}
    try:
        for graph in model.split(prepared.form, prepared.preprocessing).graphs:
            path = graph.file.replace("graphs/", "graphs/parity-sample.")
            entries[graph.file] = graph_entry(graph, path, (), prepared.precisions.of(graph.role))
            trace(graph, stored, root / path)
            if scales is not None and graph.role == "vit":
                write_activations(root / path, steps, scales.arithmetic)
        yield entries
    finally:
        for entry in entries.values():
            (root / entry.file).unlink(missing_ok=True)


def _sampled_steps(scales: ActivationRecord, whole: StoredFiles, sampled: StoredFiles) -> Mapping[str, float]:
    """Return the scales under the names of the sampled layers: those whose weights are the same bytes."""
    steps = {row.name: row.step for row in scales.steps}
    names = {place: name for places in whole.values() for name, place in places.items() if name in steps}
    found = {name: names.get(place) for places in sampled.values() for name, place in places.items()}
    return {name: steps[original] for name, original in found.items() if original is not None}


@contextmanager
def stand_ins(graphs: Mapping[str, GraphEntry], root: Path) -> Iterator[Mapping[str, GraphEntry]]:
    """Yield the graphs to run: those to check, or stand-ins of those that a CPU has no kernels for."""
    entries = {
        file: replace(graph, file=graph.file.replace("graphs/", "graphs/stand-in."))
        for file, graph in graphs.items()
        if needs_stand_in((*graph.inputs, *graph.outputs))
    }
    try:
        for file, entry in entries.items():
            write_stand_in(root / graphs[file].file, root / entry.file)
        yield {**graphs, **entries}
    finally:
        for entry in entries.values():
            (root / entry.file).unlink(missing_ok=True)


class _Runner:
    """Runs graphs by path, with one engine open at a time and its weights in their files."""

    def __init__(self, root: Path, graphs: Mapping[str, GraphEntry]) -> None:
        self._root = root
        self._graphs = graphs
        self.backend = OrtBackend(weights="mapped")
        self._open: tuple[str, Engine] | None = None

    def run(self, graph: str, feeds: Arrays) -> Arrays:
        if self._open is None or self._open[0] != graph:
            self._open = None  # release the weights of the last graph before the next are loaded
            self._open = (graph, self.backend.open(self._root, self._graphs[graph]))
        return self._open[1].run(feeds, {})


def read_weight(directory: Path, stored: StoredFiles, file: str, name: str) -> NDArray[Any]:
    """Return one stored tensor, mapped in the type that carries it; rounded weights are restored to float32."""
    place = stored[file][name]
    if place.scheme is None or place.scales is None:
        return _mapped(directory, place, carrier(place.dtype), place.shape)
    packed = _mapped(directory, place, np.dtype(np.uint8), (place.shape[0], place.length // place.shape[0]))
    scales = _mapped(directory, place.scales, carrier(place.dtype), place.scales.shape)
    return restore_weights(Rounded(unpack_codes(packed, place.scheme), scales, place.scheme.precision))


def _mapped(directory: Path, place: StoredTensor, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return np.memmap(directory / place.file, dtype=kind, mode="r", offset=place.offset, shape=shape)
