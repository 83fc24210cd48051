"""From a frame to ViT features in the original model: the runtime's decisions, transformers' layers."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stc_export.reference.metrics import METRICS, cosine
from stc_export.reference.model import TorchModel
from stc_export.reference.vision import SELECTIVE_PASSES, FrameCache, LastLayer, Pass, carried, full_pass
from stc_export.spec.interface import TOKEN_SHARES
from stc_export.spec.policy import Policy
from stc_export.spec.report import CacherMode
from stc_runtime.gate import Decision, GateState, decide


@dataclass(frozen=True, eq=False)
class Seen:
    """What pruning reads of a frame.

    Attributes:
        features: [T, C].
        last_layer: What the last layer tells of the tokens; ``None`` where some were merged before it.
    """

    features: Tensor
    last_layer: LastLayer | None = None


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """What encoding one frame gave.

    Attributes:
        mode: How it was encoded.
        recomputed: R.
        indices: Tokens that were to be recomputed, ascending; none where the layers choose or merge them.
        similarity: Mean cosine with the reference, whatever the metric; 0 without one.
        change: Relative change against the reference, infinite without one.
        seen: What the layers made of it; ``None`` for ``skip``.
        gate_ms: Time of resize, patch embedding, comparison and decision.
        vit_ms: Time of the layers.
    """

    mode: CacherMode
    recomputed: int
    indices: tuple[int, ...]
    similarity: float
    change: float
    seen: Seen | None
    gate_ms: float
    vit_ms: float


class Encoder(Protocol):
    """Encodes the frames of one stream."""

    def encode(self, frame: NDArray[np.uint8]) -> EncodedFrame:
        """Encode a frame uint8 [H, W, 3]."""
        ...

    def reset(self) -> None:
        """Start a new stream."""
        ...


class CachedEncoder:
    """The cacher of a policy."""

    def __init__(self, model: TorchModel, policy: Policy) -> None:
        """Start a stream.

        Args:
            model: Shared.
            policy: ``gate`` and ``cacher`` are read.
        """
        self._model = model
        self._policy = policy
        # Selections that rank inside the layers use the metric there.
        self._compare = {"gate": METRICS[policy.cacher.metric]}.get(policy.cacher.selection, cosine)
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._state = GateState()
        self._cache: FrameCache | None = None
        self._reference: Tensor | None = None

    def encode(self, frame: NDArray[np.uint8]) -> EncodedFrame:
        """Encode a frame uint8 [H, W, 3]."""
        start = time.perf_counter()
        patches = self._model.patch_embeddings(frame)
        reference = torch.zeros_like(patches) if self._reference is None else self._reference
        similarity = self._compare(patches, reference).cpu().numpy()
        mean_cosine = float(cosine(patches, reference).mean())
        change = _change(patches, reference)
        decision, self._state = decide(self._policy, self._state, similarity)
        decided = time.perf_counter()
        seen = self._layers(patches, decision)
        done = time.perf_counter()
        return EncodedFrame(
            mode=decision.mode,
            recomputed=len(decision.indices),
            indices=self._named(decision),
            similarity=mean_cosine,
            change=change,
            seen=seen,
            gate_ms=(decided - start) * 1e3,
            vit_ms=(done - decided) * 1e3 if seen is not None else 0.0,
        )

    def _named(self, decision: Decision) -> tuple[int, ...]:
        known = decision.mode == "selective" and self._policy.cacher.selection == "gate"
        return tuple(decision.indices.tolist()) if known else ()

    def _layers(self, patches: Tensor, decision: Decision) -> Seen | None:
        if decision.mode == "skip":
            return None
        layers, start = self._model.vision_layers, patches + self._model.positions()
        indices = self._model.tensor(decision.indices)
        if decision.mode == "full" or self._cache is None:
            done = full_pass(layers, start)
        else:
            selective = SELECTIVE_PASSES[self._policy.cacher.selection]
            done = selective(layers, start, self._cache, indices, METRICS[self._policy.cacher.metric])
        done = self._carried(done, start, decision)
        if decision.mode == "full" or self._policy.cacher.update == "rolling":
            self._cache = done.cache
            self._reference = (
                patches if self._reference is None else self._reference.index_copy(0, indices, patches[indices])
            )
        return Seen(done.features, done.last_layer)

    def _carried(self, done: Pass, start: Tensor, decision: Decision) -> Pass:
        if self._cache is None or not TOKEN_SHARES[self._policy.cacher.selection]:
            return done
        indices, *shares = (self._model.tensor(one) for one in (decision.indices, decision.gain, decision.drift))
        return carried(done, start, self._cache, indices, *shares)


def _change(patches: Tensor, reference: Tensor) -> float:
    size = float(reference.float().norm())
    return float((patches.float() - reference.float()).norm()) / size if size else math.inf
