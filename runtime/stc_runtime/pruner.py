"""From ViT features to the visual tokens that the LLM gets, with the pruning history of one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.memory import BUDGET_COSTS, kept_tokens
from stc_runtime.budgets import BUDGETS, FixedBudget, FrameBudget, FrameSize
from stc_runtime.history import PrunerHistory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stc_export.spec.policy import Policy, PrunerPolicy
    from stc_runtime.backends.base import Arrays
    from stc_runtime.backends.store import Tensor
    from stc_runtime.model import Model


class FramePruner:
    """Projects, pools and prunes the frames of one stream.

    Attributes:
        usual: K of a frame as ``pruner.keep`` says it. A budget that follows the content gives each frame its own.
        most: Most tokens that one frame can keep.
    """

    def __init__(self, model: Model, policy: Policy) -> None:
        """Open the pruner graph of the policy's method and reserve its history.

        Args:
            model: Shared engines.
            policy: Settings of the stream.
        """
        settings, dims = policy.pruner, model.manifest.dims
        graph = model.manifest.graph("pruner", settings.method)
        self._engine = model.engine("pruner", settings.method)
        self._history = PrunerHistory(model.manifest.pruner(settings.method), settings.history)
        self._declared = {spec.name for spec in graph.inputs}
        self._takes_attention = "attention" in self._declared
        size = FrameSize(dims.vision.visual_tokens, dims.text.width, model.dtype)
        self._seed = settings.seed
        self._noise = np.zeros(size.tokens if "noise" in self._declared else 0, np.float32)
        self._draws = np.random.Generator(np.random.PCG64(self._seed))
        self._alpha = np.array([settings.alpha], np.float32)
        self._carrier = np.zeros(size.tokens, np.int64)
        self.usual, self.most, self._budget = self._plan(size, settings)

    @property
    def nbytes(self) -> int:
        """Bytes of the history and of what the budget remembers."""
        return self._history.nbytes + self._budget.nbytes

    def prune(
        self, features: Tensor, attention: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return kept visual tokens [K, D] and their raster indices int64 [K], ascending.

        Args:
            features: [T, C].
            attention: What each token received, float32 [T], for a method that ranks by it.

        Raises:
            ParityError: A budget that follows the content met tokens that are not finite.
        """
        if self._noise.size:
            self._draws.random(out=self._noise, dtype=np.float32)
        feeds: dict[str, Tensor] = {"features": features}
        if self._takes_attention and attention is not None:
            feeds["attention"] = attention
        allotment = self._budget.allot(lambda: self._run(feeds, self._carrier)["visual_tokens"])
        # The graph keeps at least one token, and is needed for the history even if the frame keeps none.
        outputs = self._run(feeds, self._carrier[: max(1, allotment.count)])
        if allotment.remembered and "history_entry" in outputs:
            self._history.push(outputs["history_entry"])
        return outputs["visual_tokens"][: allotment.count], outputs["kept_indices"][: allotment.count]

    def reset(self) -> None:
        """Start a new stream."""
        self._history.reset()
        self._budget.reset()
        self._draws = np.random.Generator(np.random.PCG64(self._seed))

    def _plan(self, size: FrameSize, settings: PrunerPolicy) -> tuple[int, int, FrameBudget]:
        """Return the usual and the largest K, and what decides it. Without a carrier the graph keeps all tokens."""
        if "carrier" not in self._declared:
            return size.tokens, size.tokens, FixedBudget(size.tokens)
        most = BUDGET_COSTS[settings.budget].most(size.tokens, settings)
        return kept_tokens(size.tokens, settings.keep), most, BUDGETS[settings.budget](size, settings)

    def _run(self, feeds: Mapping[str, Tensor], carrier: NDArray[np.int64]) -> Arrays:
        """Run the graph. The history and the noise are those of the frame, however often it runs."""
        own: dict[str, NDArray[Any]] = {"alpha": self._alpha, "noise": self._noise, "carrier": carrier}
        inputs = {name: array for name, array in own.items() if name in self._declared}
        return self._engine.run({**feeds, **self._history.inputs(), **inputs}, {})
