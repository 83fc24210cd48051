"""From ViT features to the visual tokens that the LLM gets, with the pruning history of one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.memory import kept_tokens
from stc_runtime.history import PrunerHistory

if TYPE_CHECKING:
    from stc_export.spec.policy import Policy
    from stc_runtime.backends.store import Tensor
    from stc_runtime.model import Model


class FramePruner:
    """Projects, pools and prunes the frames of one stream."""

    def __init__(self, model: Model, policy: Policy) -> None:
        """Open the pruner graph of the policy's method and reserve its history.

        Args:
            model: Shared engines.
            policy: Settings of the stream.
        """
        method = policy.pruner.method
        graph = model.manifest.graph("pruner", method)
        self._engine = model.engine("pruner", method)
        self._history = PrunerHistory(model.manifest.pruner(method), policy.pruner.history)
        declared = {spec.name for spec in graph.inputs}
        self._takes_attention = "attention" in declared
        total = model.manifest.dims.vision.visual_tokens
        self._seed = policy.pruner.seed
        self._noise = np.zeros(total if "noise" in declared else 0, np.float32)
        self._draws = np.random.Generator(np.random.PCG64(self._seed))
        self.kept = kept_tokens(total, policy.pruner.keep) if "carrier" in declared else total
        fixed: dict[str, NDArray[Any]] = {
            "alpha": np.array([policy.pruner.alpha], np.float32),
            "carrier": np.zeros(self.kept, np.int64),
        }
        self._fixed = {name: array for name, array in fixed.items() if name in declared}

    @property
    def nbytes(self) -> int:
        """Bytes of the history."""
        return self._history.nbytes

    def prune(
        self, features: Tensor, attention: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return kept visual tokens [K, D] and their raster indices int64 [K], ascending.

        Args:
            features: [T, C].
            attention: What each token received, float32 [T], for a method that ranks by it.
        """
        feeds = {"features": features, **self._history.inputs(), **self._fixed}
        if self._takes_attention and attention is not None:
            feeds["attention"] = attention
        if self._noise.size:
            feeds["noise"] = self._draws.random(out=self._noise, dtype=np.float32)
        outputs = self._engine.run(feeds, {})
        if "history_entry" in outputs:
            self._history.push(outputs["history_entry"])
        return outputs["visual_tokens"], outputs["kept_indices"]

    def reset(self) -> None:
        """Start a new stream."""
        self._history.reset()
        self._draws = np.random.Generator(np.random.PCG64(self._seed))
