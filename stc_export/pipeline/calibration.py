"""Scales of activations: vision graphs are shown data by the runtime's own encoder, and what flows in is counted.

The graphs have their rounded weights by then and compute with floating point numbers. Each selection is shown all of
the data: full passes and selective ones over the cache that earlier frames left come as they do on the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stc_calib.data import Seen
from stc_calib.float8 import LARGEST
from stc_calib.listening import Heard, ListeningBackend
from stc_calib.ranges import Range, Ranges
from stc_calib.schemes import Arithmetic
from stc_export.exporter.activations import write_activations, write_taps
from stc_export.pipeline.calibration_data import CalibrationTask
from stc_export.pipeline.check import stand_ins
from stc_export.pipeline.plan import Prepared
from stc_export.spec.calibration import ActivationRecord, GraphDigest, LayerStep
from stc_export.spec.errors import UsageError
from stc_export.spec.files import file_digest
from stc_export.spec.interface import session_graphs
from stc_export.spec.manifest import GraphEntry, Manifest
from stc_export.spec.policy import CacherPolicy, Policy, Selection
from stc_export.spec.progress import Progress
from stc_export.spec.report import CacherMode
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.bundle import Bundle
from stc_runtime.encoder import FrameEncoder
from stc_runtime.model import Model

#: Codes of int8 on either side of 0.
_MOST = 127
#: Smallest number above 0 that float16 holds.
_LEAST_STEP = 2.0**-24
#: What a step is worth. E4M3 is as exact at small numbers as at large ones, so that nothing needs to be cut off.
_STEPS: Mapping[Arithmetic, Callable[[Range], float]] = {
    "int8": lambda found: found.clip(_MOST) / _MOST,
    "fp8": lambda found: (found.largest or 1.0) / LARGEST,
}
#: Every selection has a graph of its own.
_SELECTIONS: tuple[Selection, ...] = ("gate", "per_layer", "shared")


def calibrate(
    prepared: Prepared, task: CalibrationTask, manifest: Manifest, root: Path, progress: Progress
) -> ActivationRecord:
    """Choose scales, write them into the vision graphs, and return the record of it.

    Args:
        prepared: The build.
        task: What they are chosen from.
        manifest: The bundle so far.
        root: Directory that holds it.
        progress: Receiver of progress.

    Raises:
        UsageError: An activation is NaN or infinite, or the data changed meanwhile.
        VideoError: A frame cannot be read.
    """
    ranges, modes = _listen(task, manifest, root, progress)
    steps = {layer: max(_STEPS[task.arithmetic](found), _LEAST_STEP) for layer, found in ranges.items()}
    files = [graph.file for graph in manifest.graphs if graph.role == "vit"]
    for file in files:
        write_activations(root / file, steps, task.arithmetic)
    return ActivationRecord(
        arithmetic=task.arithmetic,
        data=Path(task.data.source).name,
        data_sha256=task.digest.sha256,
        frames=task.digest.frames,
        full_passes=modes["full"],
        selective_passes=modes["selective"],
        preprocess=prepared.preprocessing.spec,
        mean=prepared.preprocessing.mean,
        std=prepared.preprocessing.std,
        graphs=tuple(GraphDigest(file, file_digest(root / file)) for file in files),
        steps=tuple(LayerStep(layer, step) for layer, step in steps.items()),
    )


def _listen(
    task: CalibrationTask, manifest: Manifest, root: Path, progress: Progress
) -> tuple[Ranges, Counter[CacherMode]]:
    """Show the data to the graph of every selection, and return what flowed into the layers and how frames went."""
    policies = [_with_selection(manifest.policy, selection) for selection in _SELECTIONS]
    shown = [manifest.graph("vit", session_graphs(policy)["vit"]) for policy in policies]
    ranges, modes = Ranges(), Counter[CacherMode]()
    with (
        _tapped(shown, root) as tapped,
        progress.stage("calibration", len(policies) * task.digest.frames, "frames") as advance,
    ):
        graphs = tuple(tapped.entries.get(graph.file, graph) for graph in manifest.graphs)
        backend = ListeningBackend(OrtBackend(), tapped.heard, ranges.add)
        model = Model(Bundle(root, replace(manifest, graphs=graphs)), backend)
        for policy in policies:
            modes += _show(FrameEncoder(model, policy), task, advance)
    return ranges, modes


def _with_selection(policy: Policy, selection: Selection) -> Policy:
    return replace(policy, cacher=replace(policy.cacher, selection=selection, metric=CacherPolicy.metric))


def _show(encoder: FrameEncoder, task: CalibrationTask, advance: Callable[[int], None]) -> Counter[CacherMode]:
    """Encode all frames, clip by clip, and return how."""
    seen, modes = Seen(), Counter[CacherMode]()
    for clip in task.data.clips:
        encoder.reset()
        for frame, _ in clip.frames():
            modes[encoder.encode(frame).mode] += 1
            seen.add(frame)
            advance(1)
    if seen.digest != task.digest:
        raise UsageError(
            f'"{task.data.source}" changed while it was read: {task.digest.frames} frames with digest '
            f"{task.digest.sha256[:12]} at first, {seen.digest.frames} with {seen.digest.sha256[:12]} now.",
            "Build again when nothing writes to it.",
        )
    return modes


@dataclass(frozen=True)
class _Tapped:
    """Graphs that tell what flows into their layers.

    Attributes:
        entries: File of a graph of the bundle -> the one that tells.
        heard: What their outputs are.
    """

    entries: Mapping[str, GraphEntry]
    heard: Heard


@contextmanager
def _tapped(graphs: list[GraphEntry], root: Path) -> Iterator[_Tapped]:
    entries: dict[str, GraphEntry] = {}
    heard: dict[str, Mapping[str, tuple[str, ...]]] = {}
    try:
        for graph in graphs:
            path = graph.file.replace("graphs/", "graphs/taps.")
            entries[graph.file] = replace(graph, file=path)
            taps = write_taps(root / graph.file, root / path)
            entries[graph.file] = replace(graph, file=path, outputs=(*graph.outputs, *(tap.port for tap in taps)))
            heard[graph.file] = {tap.port.name: tap.layers for tap in taps}
        with stand_ins(entries, root) as runnable:
            yield _Tapped(runnable, {runnable[file].file: outputs for file, outputs in heard.items()})
    finally:
        for entry in entries.values():
            (root / entry.file).unlink(missing_ok=True)
