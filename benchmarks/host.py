"""Where the time of a whole frame goes: inside each graph, and on the host between them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import Bench
from numpy.typing import DTypeLike, NDArray

from stc_export.pipeline.bench.series import Measured, Series, compare, timed_ms
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.operations import frame_macs, gate_macs, llm_macs, projector_macs, vit_macs
from stc_export.spec.manifest import GraphEntry, Role
from stc_export.spec.report import FrameReport
from stc_runtime.backends.base import Backend, Engine, Tensors
from stc_runtime.backends.store import Store
from stc_runtime.session import StreamSession

ROLES: tuple[Role, ...] = ("cacher_gate", "vit", "pruner", "llm")
#: What a frame costs beside encoding and prefill.
OVERHEAD = "gate + pruner + host"


@dataclass
class ClockedBackend:
    """Another backend, with the milliseconds inside its graphs added up by role."""

    inner: Backend
    spent_ms: Counter[str] = field(default_factory=Counter)

    @property
    def in_place(self) -> bool:
        """See :class:`stc_runtime.backends.base.Backend`."""
        return self.inner.in_place

    @property
    def llm(self) -> ClockedBackend:
        """The same clock: what works beside the backend would be counted as time of the host."""
        return ClockedBackend(self.inner.llm, self.spent_ms)

    def store(self, count: int, dtype: DTypeLike) -> Store:
        """See :class:`stc_runtime.backends.base.Backend`."""
        return self.inner.store(count, dtype)

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """See :class:`stc_runtime.backends.base.Backend`."""
        return _ClockedEngine(self.inner.open(root, graph), graph.role, self.spent_ms)


@dataclass
class _ClockedEngine:
    inner: Engine
    role: str
    spent_ms: Counter[str]

    def run(self, feeds: Tensors, into: Tensors) -> dict[str, NDArray[Any]]:
        start = time.perf_counter()
        out = self.inner.run(feeds, into)
        self.spent_ms[self.role] += (time.perf_counter() - start) * 1e3
        return out


def measure_host(bench: Bench) -> Measured:
    """Frames of a stream with the bundle's policy; a value is the mean over the frames of a pass."""
    frames, passes = bench.plan.stream_frames, bench.plan.repeats
    stream = _Stream(bench)
    for place in range(frames):
        stream.push(place)
    with bench.progress.stage("host", passes * frames, "frames") as advance:
        taken = []
        for index in range(passes * frames):
            taken.append(stream.push(index % frames))
            advance(1)
    series = {
        name: Series(
            f"{name} per frame", round(stream.macs[name] / frames), frames, frames, tuple(one[name] for one in taken)
        )
        for name in ("whole", OVERHEAD, *ROLES, "host")
    }
    return Measured(tuple(series.values()), tuple(compare(one, series["whole"]) for one in list(series.values())[1:]))


class _Stream:
    """Pushes the frames of a generated scene into one session.

    Attributes:
        macs: Multiply-accumulates of the frames since the first one, by stage.
    """

    def __init__(self, bench: Bench) -> None:
        self._backend = ClockedBackend(bench.backend())
        self._session = StreamSession(bench.model(self._backend))
        self._scene = read_scene(None, bench.plan.stream_frames)
        self.macs: Counter[str] = Counter()

    def push(self, place: int) -> Mapping[str, float]:
        """Push the frame of a place, the first one into a new stream; returns milliseconds by stage."""
        if place == 0:
            self._session.reset()
            self.macs.clear()
        past, reports = self._session.remembered_tokens, list[FrameReport]()
        self._backend.spent_ms.clear()
        whole = timed_ms(lambda: reports.append(self._session.push(self._scene.frames[place], float(place))))
        self._count(reports[0], past)
        return _stages(self._backend.spent_ms, whole)

    def _count(self, report: FrameReport, past: int) -> None:
        dims, selection = self._session.manifest.dims, self._session.policy.cacher.selection
        whole = frame_macs(dims, selection, report.recomputed, report.kept_tokens, past)
        inside = Counter(cacher_gate=gate_macs(dims.vision))
        if report.recomputed:
            inside["vit"] = vit_macs(dims.vision, selection, report.recomputed)
            inside["pruner"] = projector_macs(dims)
            inside["llm"] = llm_macs(dims.text, report.kept_tokens, past) if report.kept_tokens else 0
        self.macs.update(_stages(inside, whole))


def _stages(spent: Mapping[str, float], whole: float) -> dict[str, float]:
    """Add to what the graphs took what the host took, what all took, and what the compression itself costs."""
    graphs = {role: spent.get(role, 0.0) for role in ROLES}
    host = whole - sum(graphs.values())
    return {**graphs, "host": host, "whole": whole, OVERHEAD: graphs["cacher_gate"] + graphs["pruner"] + host}
