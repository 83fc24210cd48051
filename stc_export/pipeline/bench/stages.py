"""The measurements of ``bench``, each against its baseline: ViT, prefill, whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.pipeline.bench.series import Measured, Series, Step, compare, compare_interval, interleaved, timed_ms
from stc_export.pipeline.bench.video import Scene
from stc_export.pipeline.operations import frame_macs, llm_macs, vit_macs
from stc_export.spec.interface import session_graphs
from stc_export.spec.manifest import Manifest
from stc_export.spec.memory import BUDGET_COSTS
from stc_export.spec.policy import SELECTIONS, GatePolicy, Policy, PrunerPolicy, Selection
from stc_export.spec.progress import Progress
from stc_runtime.backends.store import Tensor
from stc_runtime.dtypes import narrowed
from stc_runtime.encoder import FeatureCache, selection_feeds
from stc_runtime.gate import Decision
from stc_runtime.language import StreamMemory
from stc_runtime.model import Model
from stc_runtime.preprocess import Resizer
from stc_runtime.pruner import FramePruner
from stc_runtime.session import StreamSession

#: Shares of tokens that are measured besides the policy's own, and intervals N besides the policy's own.
_RATIOS = (0.10, 0.25, 0.50)
_INTERVALS = (2, 4)
#: Frames that the ViT is measured on: its time does not depend on the picture.
_VIT_FRAMES = 8
_WARMUP = 2


def selections(manifest: Manifest) -> tuple[Selection, ...]:
    """Return the selections that a bundle has a ``vit`` graph for."""
    variants = {graph.variant for graph in manifest.graphs if graph.role == "vit"}
    return tuple(selection for selection in SELECTIONS if selection in variants)


def measure_vit(
    model: Model, policy: Policy, selection: Selection, scene: Scene, repeats: int, progress: Progress
) -> Measured:
    """Measure selective passes of one selection against the full pass of the same graph.

    Args:
        model: The bundle; its ``cacher_gate`` and one ``vit`` are opened.
        policy: Cache update, update ratio and interval are taken from it.
        selection: Who names the tokens.
        scene: The first frame is the reference of the others.
        repeats: Passes over the frames.
        progress: Receiver of progress.
    """
    vision = model.manifest.dims.vision
    ratios = {f"{100 * ratio:g} %": ratio for ratio in sorted({*_RATIOS, policy.cacher.update_ratio})}
    counts = [vision.tokens, *(min(max(int(vision.tokens * r), 1), vision.tokens) for r in ratios.values())]
    passes = VitPasses(model, policy, selection, scene.frames[:_VIT_FRAMES])
    rounds = repeats * passes.frames
    with progress.stage(f"vit {selection}", rounds, "rounds") as advance:
        samples = interleaved([passes.step(count) for count in counts], _WARMUP, rounds, advance)
    names = [f"vit {selection} {name}" for name in ("full", *ratios)]
    full, *selective = (
        Series(name, vit_macs(vision, selection, count), _WARMUP, 1, taken)
        for name, count, taken in zip(names, counts, samples, strict=True)
    )
    own = selective[list(ratios.values()).index(policy.cacher.update_ratio)]
    intervals = sorted({*_INTERVALS, policy.cacher.interval} - {1})
    rows = [compare(series, full) for series in selective]
    rows += [compare_interval(interval, full, own, full) for interval in intervals]
    return Measured((full, *selective), tuple(rows))


class VitPasses:
    """Runs one ``vit`` graph as a session does, on frames whose patch embeddings are computed before.

    Args:
        model: The bundle; its ``cacher_gate`` and the ``vit`` graph are opened.
        policy: Its cache update is used.
        selection: Which ``vit`` graph.
        frames: At least two, uint8 [H, W, 3]; the first fills the feature cache.
    """

    def __init__(self, model: Model, policy: Policy, selection: Selection, frames: Sequence[NDArray[np.uint8]]) -> None:
        chosen = replace(policy, cacher=replace(policy.cacher, selection=selection))
        variants = session_graphs(chosen)
        graph = model.manifest.graph("vit", variants["vit"])
        self._engine = model.engine("vit", variants["vit"])
        self._selection: Selection = selection
        self._cache = FeatureCache(graph, chosen, model.backend)
        gate, resize = model.engine("cacher_gate", variants["cacher_gate"]), Resizer(model.manifest.preprocess)
        first = {"frame": resize(frames[0]), "reference": self._cache.reference}
        gate.run(first, {"patch_embeddings": self._cache.embeddings})
        everything = np.arange(model.manifest.dims.vision.tokens, dtype=np.int64)
        self._run(self._cache.embeddings, everything)
        self._cache.keep("full", everything)
        others = ({"frame": resize(frame), "reference": self._cache.reference} for frame in frames[1:])
        self._gated = [gate.run(feeds, {}) for feeds in others]

    @property
    def frames(self) -> int:
        """Frames after the reference."""
        return len(self._gated)

    @property
    def embeddings(self) -> list[NDArray[Any]]:
        """Patch embeddings [T, C] of these frames."""
        return [out["patch_embeddings"] for out in self._gated]

    def step(self, count: int) -> Step:
        """Return what recomputes ``count`` tokens of the i-th frame; all tokens are a full pass."""
        # The least similar first: what the gate would pick. Rankings inside the graph read the length only.
        chosen = [np.sort(np.argsort(out["similarity"], kind="stable")[:count]).astype(np.int64) for out in self._gated]

        def run(index: int) -> float:
            place = index % self.frames
            return timed_ms(lambda: self._run(self._gated[place]["patch_embeddings"], chosen[place]))

        return run

    def _run(self, embeddings: Tensor, indices: NDArray[np.int64]) -> None:
        chosen = selection_feeds(self._selection, Decision.overwriting("selective", indices))
        feeds = {"patch_embeddings": embeddings, **chosen, **self._cache.feeds()}
        self._engine.run(feeds, self._cache.outputs())


def measure_prefill(model: Model, policy: Policy, frames: int, repeats: int, progress: Progress) -> Measured:
    """Measure the prefill of K kept against all M tokens of a frame, frame by frame on a growing past.

    Args:
        model: The bundle; its ``llm`` is opened.
        policy: K and the positions are taken from it; K is that of ``pruner.keep``, whatever the budget.
        frames: Frames of a pass; each pass starts with an empty memory.
        repeats: Passes.
        progress: Receiver of progress.
    """
    dims = model.manifest.dims
    total = dims.vision.visual_tokens
    kept = FramePruner(model, policy).usual
    if kept == total:
        return Measured((), (), ("prefill was not compared: the policy keeps all visual tokens",))
    roomy = _with_room(policy, model, frames)
    passes = [_PrefillPasses(model, roomy, count, frames) for count in (kept, total)]
    with progress.stage("prefill", repeats * frames, "frames") as advance:
        samples = interleaved([one.step for one in passes], _WARMUP, repeats * frames, advance)
    pruned, whole = (
        Series(f"prefill {name}, {frames} frames", one.macs / frames, _WARMUP, frames, taken)
        for name, one, taken in zip((f"{kept} of {total} tokens", f"{total} tokens"), passes, samples, strict=True)
    )
    return Measured((pruned, whole), (compare(pruned, whole),))


class _PrefillPasses:
    """Prefills frames of random visual tokens: the time does not depend on their values."""

    def __init__(self, model: Model, policy: Policy, tokens: int, frames: int) -> None:
        text, sink = model.manifest.dims.text, _sink(model)
        self._memory = StreamMemory(model, policy, sink, tokens)
        random = np.random.default_rng(0)
        self._tokens = narrowed(random.standard_normal((tokens, text.width)) * text.width**-0.5, model.dtype)
        self._indices = np.arange(tokens, dtype=np.int64)
        self._frames = frames
        self.macs = sum(llm_macs(text, tokens, len(sink) + index * tokens) for index in range(frames))

    def step(self, index: int) -> float:
        """Prefill the next frame; a new pass forgets the last one first, which is not timed."""
        if index % self._frames == 0:
            self._memory.reset()
        return timed_ms(self._prefill)

    def _prefill(self) -> None:
        self._memory.add_frame(self._tokens, self._indices)
        self._memory.settle()


def measure_stream(model: Model, policy: Policy, name: str, scene: Scene, repeats: int, progress: Progress) -> Measured:
    """Measure whole frames with a policy against the same stream without compression.

    Args:
        model: The bundle; all graphs that the policy needs are opened.
        policy: What is measured. The baseline has the same selection and memory.
        name: Name of the policy in rows and notes.
        scene: Frames of a pass; each pass is a new stream.
        repeats: Passes.
        progress: Receiver of progress.
    """
    methods = {entry.method for entry in model.manifest.pruners}
    method = "none" if "none" in methods else policy.pruner.method
    frames = len(scene.frames)
    roomy = _with_room(policy, model, frames)
    off = replace(roomy, gate=GatePolicy(mode="off"), pruner=PrunerPolicy(method=method, keep=1.0))
    passes = [_StreamPasses(model, one, scene) for one in (roomy, off)]
    with progress.stage(f"stream {name}", repeats * frames, "frames") as advance:
        samples = interleaved([one.step for one in passes], _WARMUP, repeats * frames, advance)
    compressed, plain = (
        Series(f"stream {label}, {frames} frames", one.macs / frames, _WARMUP, frames, taken)
        for label, one, taken in zip((name, "off"), passes, samples, strict=True)
    )
    modes = passes[0].modes
    counts = ", ".join(f"{modes.count(mode)} {mode}" for mode in ("full", "selective", "skip"))
    notes = [f"stream {name}: {counts} frames ({scene.source} video)"]
    if any(one.evicted for one in passes):
        notes.append("the model's context does not hold all frames of the stream: old ones were evicted")
    return Measured((compressed, plain), (compare(compressed, plain),), tuple(notes))


class _StreamPasses:
    """Pushes the frames of a scene into one session, again and again."""

    def __init__(self, model: Model, policy: Policy, scene: Scene) -> None:
        self._session = StreamSession(model, policy)
        self._scene = scene
        self.modes: list[str] = []
        self.macs = 0
        self.evicted = 0

    def step(self, index: int) -> float:
        """Push the next frame; a new pass resets the session first, which is not timed."""
        place = index % len(self._scene.frames)
        if place == 0:
            self._session.reset()
            self.modes, self.macs, self.evicted = [], 0, 0
        frame, time_s = self._scene.frames[place], self._scene.times_s[place]
        past = self._session.remembered_tokens
        reports = []
        elapsed = timed_ms(lambda: reports.append(self._session.push(frame, time_s)))
        report, dims = reports[0], self._session.manifest.dims
        selection = self._session.policy.cacher.selection
        runs = BUDGET_COSTS[self._session.policy.pruner.budget].pruner_runs
        self.macs += frame_macs(dims, selection, report.recomputed, report.kept_tokens, past, runs)
        self.modes.append(report.mode)
        self.evicted += report.evicted_frames
        return elapsed


def _sink(model: Model) -> tuple[int, ...]:
    return tuple(piece.token for piece in model.manifest.prompt.before_video if piece.token is not None)


def _with_room(policy: Policy, model: Model, frames: int) -> Policy:
    """Give a policy memory for all tokens of all frames, or as much as the model's context allows."""
    dims = model.manifest.dims
    wanted = len(_sink(model)) + frames * dims.vision.visual_tokens
    room = dims.text.context - policy.memory.answer_tokens
    return replace(policy, memory=replace(policy.memory, kv_tokens=min(wanted, room)))
