"""From a frame to ViT features: resize, gate, decision, selective or full pass, and the feature cache of one stream."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.interface import TOKEN_SHARES, session_graphs
from stc_export.spec.manifest import SELECTION_INPUTS, GraphEntry, TensorSpec
from stc_export.spec.report import CacherMode
from stc_runtime.backends.store import Store, Tensor
from stc_runtime.dtypes import carrier
from stc_runtime.footprint import cache_sets
from stc_runtime.gate import Decision, GateState, decide
from stc_runtime.preprocess import Resizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stc_export.spec.policy import Policy, Selection
    from stc_runtime.backends.base import Backend
    from stc_runtime.model import Model


def selection_feeds(selection: Selection, decision: Decision) -> dict[str, NDArray[Any]]:
    """Return what tells a ``vit`` graph which tokens to recompute, and what comes of them: inputs [R]."""
    shares = {"gain": decision.gain, "drift": decision.drift}
    return {
        SELECTION_INPUTS[selection]: decision.indices,
        **{name: shares[name] for name in TOKEN_SHARES[selection]},
    }


@dataclass(frozen=True, eq=False)
class LastLayer:
    """What the last layer of the ViT tells of its tokens.

    Attributes:
        attention: What each received from those that were recomputed, float32 [T].
        keys: [heads, T, head_dim], each of when its token was last recomputed; valid until the next frame.
    """

    attention: NDArray[np.float32]
    keys: Tensor


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
        last_layer: What the ViT's last layer tells of its tokens; ``None`` for ``skip``, and where the graph does not.
        gate_ms: Time of resize, gate and decision.
        vit_ms: Time of the ViT.
    """

    mode: CacherMode
    recomputed: int
    recomputed_indices: tuple[int, ...]
    similarity: float
    change: float
    features: Tensor
    last_layer: LastLayer | None
    gate_ms: float
    vit_ms: float


class FeatureCache:
    """State of the ``vit`` graph of one stream: what it calls ``*_in`` and ``*_out``.

    What a frame computes goes to a second set of stores. It becomes the cache after a full frame, and after a selective
    one when the policy's update is ``rolling``; with ``reference`` the older set survives it. A rolling cache of a
    backend that writes in place needs one set only.
    """

    def __init__(self, graph: GraphEntry, policy: Policy, backend: Backend) -> None:
        """Reserve all stores.

        Args:
            graph: Entry of the ``vit`` graph that the policy selects.
            policy: Settings of the stream.
            backend: What runs the graph.
        """
        self._ports = [spec for spec in graph.inputs if spec.name.endswith("_in")]
        self._rolling = policy.cacher.update == "rolling"
        count = cache_sets(policy.cacher.update, in_place=backend.in_place)
        self._sets = [[_reserve(backend, spec) for spec in self._ports] for _ in range(count)]
        self._patches = next(spec for spec in graph.inputs if spec.name == "patch_embeddings")
        self._reference, self._features, self._embeddings = (_reserve(backend, self._patches) for _ in range(3))

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(store.nbytes for store in self._stores())

    @property
    def reference(self) -> Tensor:
        """Patch embeddings [T, C] that a frame is compared with."""
        return self._reference.tensor(self._patches.static_shape)

    @property
    def embeddings(self) -> Tensor:
        """Patch embeddings [T, C] of the newest frame."""
        return self._embeddings.tensor(self._patches.static_shape)

    @property
    def features(self) -> Tensor:
        """Features [T, C] of the last frame that was encoded."""
        return self._features.tensor(self._patches.static_shape)

    def read_features(self) -> NDArray[Any]:
        """Return a copy of :attr:`features` on the host."""
        shape = self._patches.static_shape
        return self._features.read(0, math.prod(shape)).reshape(shape)

    def feeds(self) -> dict[str, Tensor]:
        """Return the state as inputs of the graph."""
        return self._tensors(self._sets[0], "in")

    def outputs(self) -> dict[str, Tensor]:
        """Return what the graph's outputs go to."""
        return {"features": self.features, **self._tensors(self._sets[-1], "out")}

    def keep(self, mode: CacherMode, indices: NDArray[np.int64]) -> None:
        """Take over what the graph gave, and the patch embeddings of the tokens that it gave it for."""
        if mode == "full" or self._rolling:
            self._sets.reverse()
            self._reference.take_rows(self.embeddings, indices)

    def reset(self) -> None:
        """Forget everything."""
        for store in self._stores():
            store.clear()

    def _stores(self) -> Iterator[Store]:
        yield from itertools.chain(*self._sets)
        yield from (self._reference, self._features, self._embeddings)

    def _tensors(self, stores: list[Store], way: str) -> dict[str, Tensor]:
        pairs = zip(self._ports, stores, strict=True)
        return {f"{spec.name.removesuffix('in')}{way}": store.tensor(spec.static_shape) for spec, store in pairs}


def _reserve(backend: Backend, spec: TensorSpec) -> Store:
    return backend.store(math.prod(spec.static_shape), carrier(spec.dtype))


class FrameEncoder:
    """Encodes the frames of one stream."""

    def __init__(self, model: Model, policy: Policy) -> None:
        """Open the graphs that the policy needs and reserve the cache.

        Args:
            model: Shared engines.
            policy: Settings of the stream.
        """
        self._policy = policy
        variants = session_graphs(policy)
        self._gate = model.engine("cacher_gate", variants["cacher_gate"])
        self._vit = model.engine("vit", variants["vit"])
        self._resize = Resizer(model.manifest.preprocess)
        self._cache = FeatureCache(model.manifest.graph("vit", variants["vit"]), policy, model.backend)
        self._similarity = np.zeros(model.manifest.dims.vision.tokens, np.float32)
        self._last_keys = f"key_{model.manifest.dims.vision.layers - 1}_out"
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
            {"patch_embeddings": self._cache.embeddings, "similarity": self._similarity},
        )
        decision, self._state = decide(self._policy, self._state, self._similarity)
        decided = time.perf_counter()
        last_layer = None if decision.mode == "skip" else self._recompute(decision)
        done = time.perf_counter()
        return Encoded(
            mode=decision.mode,
            recomputed=len(decision.indices),
            recomputed_indices=self._named(decision),
            similarity=float(gate["statistics"][0]),
            change=float(gate["statistics"][2]) if had_reference else math.inf,
            features=self._cache.features,
            last_layer=last_layer,
            gate_ms=(decided - start) * 1e3,
            vit_ms=(done - decided) * 1e3 if decision.mode != "skip" else 0.0,
        )

    def _recompute(self, decision: Decision) -> LastLayer | None:
        """Run the ViT, and return what its graph tells of the last layer."""
        places = self._cache.outputs()
        outputs = self._vit.run(
            {
                "patch_embeddings": self._cache.embeddings,
                **selection_feeds(self._policy.cacher.selection, decision),
                **self._cache.feeds(),
            },
            places,
        )
        self._cache.keep(decision.mode, decision.indices)
        attention = outputs.get("attention")
        return None if attention is None else LastLayer(attention, places[self._last_keys])

    def read_features(self) -> NDArray[Any]:
        """Return a copy on the host of the features [T, C] of the last frame that was encoded."""
        return self._cache.read_features()

    def _named(self, decision: Decision) -> tuple[int, ...]:
        # Selections inside the graph read only how many indices there are.
        known = decision.mode == "selective" and self._policy.cacher.selection == "gate"
        return tuple(decision.indices.tolist()) if known else ()

    def reset(self) -> None:
        """Start a new stream."""
        self._cache.reset()
        self._state = GateState()
