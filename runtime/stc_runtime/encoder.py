"""From a frame to ViT features: resize, gate, decision, selective or full pass, and the feature cache of one stream."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.manifest import SELECTION_INPUTS, GraphEntry
from stc_export.spec.report import CacherMode
from stc_runtime.gate import Decision, GateState, decide
from stc_runtime.preprocess import Resizer

if TYPE_CHECKING:
    from stc_export.spec.policy import Policy
    from stc_runtime.model import Model


@dataclass(frozen=True, eq=False)
class Encoded:
    """What encoding one frame gave.

    Attributes:
        mode: How the frame was encoded.
        recomputed: R.
        recomputed_indices: Which tokens, of a selective frame whose tokens the gate chose; else empty.
        similarity: Mean cosine with the reference, 0 without one.
        change: Relative change against the reference, infinite without one.
        features: [T, C], valid until the next frame; for ``skip`` those of the frame before.
        gate_ms: Time of resize, gate and decision.
        vit_ms: Time of the ViT.
    """

    mode: CacherMode
    recomputed: int
    recomputed_indices: tuple[int, ...]
    similarity: float
    change: float
    features: NDArray[Any]
    gate_ms: float
    vit_ms: float


class FeatureCache:
    """State of the ``vit`` graph of one stream: what it calls ``*_in`` and ``*_out``.

    A full frame writes all of it. A selective frame writes it when the policy's update is ``rolling``; with
    ``reference`` its results go to a second set of buffers, so that the reference survives.
    """

    def __init__(self, graph: GraphEntry, policy: Policy) -> None:
        """Reserve all buffers.

        Args:
            graph: Entry of the ``vit`` graph that the policy selects.
            policy: Settings of the stream.
        """
        ports = [spec for spec in graph.inputs if spec.name.endswith("_in")]
        self._names = [spec.name.removesuffix("_in") for spec in ports]
        self._kept = [np.zeros(spec.static_shape, spec.dtype) for spec in ports]
        rolling = policy.cacher.update == "rolling"
        self._aside = self._kept if rolling else [np.zeros_like(array) for array in self._kept]
        patches = next(spec for spec in graph.inputs if spec.name == "patch_embeddings")
        self.reference = np.zeros(patches.static_shape, patches.dtype)
        self.features = np.zeros(patches.static_shape, patches.dtype)
        self._rolling = rolling

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        arrays = [*self._kept, self.reference, self.features]
        arrays += [] if self._rolling else self._aside
        return sum(array.nbytes for array in arrays)

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Return the state as inputs of the graph."""
        return {f"{name}_in": array for name, array in zip(self._names, self._kept, strict=True)}

    def outputs(self, mode: CacherMode) -> dict[str, NDArray[Any]]:
        """Return the buffers that the graph's outputs go to."""
        buffers = self._kept if mode == "full" else self._aside
        into = {f"{name}_out": array for name, array in zip(self._names, buffers, strict=True)}
        return {"features": self.features, **into}

    def update_reference(self, mode: CacherMode, indices: NDArray[np.int64], embeddings: NDArray[Any]) -> None:
        """Take over the patch embeddings of the tokens whose cached results are now of this frame."""
        if mode == "full" or self._rolling:
            self.reference[indices] = embeddings[indices]

    def reset(self) -> None:
        """Forget everything."""
        for array in (*self._kept, *self._aside, self.reference, self.features):
            array.fill(0)


class FrameEncoder:
    """Encodes the frames of one stream."""

    def __init__(self, model: Model, policy: Policy) -> None:
        """Open the graphs that the policy needs and reserve the cache.

        Args:
            model: Shared engines.
            policy: Settings of the stream.
        """
        self._policy = policy
        selection = policy.cacher.selection
        self._gate = model.engine("cacher_gate")
        self._vit = model.engine("vit", selection)
        self._selection_input = SELECTION_INPUTS[selection]
        self._resize = Resizer(model.manifest.preprocess)
        self._cache = FeatureCache(model.manifest.graph("vit", selection), policy)
        self._embeddings = np.zeros_like(self._cache.reference)
        self._similarity = np.zeros(len(self._embeddings), np.float32)
        self._state = GateState()

    @property
    def nbytes(self) -> int:
        """Bytes of the feature cache."""
        return self._cache.nbytes

    def encode(self, frame: NDArray[np.uint8]) -> Encoded:
        """Encode a frame of any size, uint8 [H, W, 3]."""
        start = time.perf_counter()
        had_reference = self._state.has_reference
        gate = self._gate.run(
            {"frame": self._resize(frame), "reference": self._cache.reference},
            {"patch_embeddings": self._embeddings, "similarity": self._similarity},
        )
        decision, self._state = decide(self._policy, self._state, self._similarity)
        decided = time.perf_counter()
        if decision.mode != "skip":
            self._vit.run(
                {
                    "patch_embeddings": self._embeddings,
                    self._selection_input: decision.indices,
                    **self._cache.feeds(),
                },
                self._cache.outputs(decision.mode),
            )
            self._cache.update_reference(decision.mode, decision.indices, self._embeddings)
        done = time.perf_counter()
        return Encoded(
            mode=decision.mode,
            recomputed=len(decision.indices),
            recomputed_indices=self._named(decision),
            similarity=float(gate["statistics"][0]),
            change=float(gate["statistics"][2]) if had_reference else math.inf,
            features=self._cache.features,
            gate_ms=(decided - start) * 1e3,
            vit_ms=(done - decided) * 1e3 if decision.mode != "skip" else 0.0,
        )

    def _named(self, decision: Decision) -> tuple[int, ...]:
        # Selections inside the graph read only how many indices there are.
        known = decision.mode == "selective" and self._policy.cacher.selection == "gate"
        return tuple(decision.indices.tolist()) if known else ()

    def reset(self) -> None:
        """Start a new stream."""
        self._cache.reset()
        self._state = GateState()
