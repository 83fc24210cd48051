"""From the features of a frame to what the LLM knows of it: at once, or only when there is a question."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stc_export.reference.budgets import BUDGETS
from stc_export.reference.encoder import Seen
from stc_export.reference.memory import StreamCache
from stc_export.reference.model import TorchModel
from stc_export.reference.pruners import PRUNERS, Kept, VisualFrame
from stc_export.reference.vision import LastLayer
from stc_export.spec.errors import UnsupportedError, nearest
from stc_export.spec.memory import BUDGET_COSTS
from stc_export.spec.policy import Policy, PrunerPolicy


@dataclass(frozen=True)
class Taken:
    """What reading one frame did.

    Attributes:
        kept: Visual tokens that the LLM gets of it; of methods that decide later, on average.
        indices: Which, ascending, where that is decided at once.
        evicted: Frames that left the memory for it.
        pruner_ms: Time of projector, pooling and pruner.
        prefill_ms: Time of the LLM.
    """

    kept: int
    indices: tuple[int, ...]
    evicted: int
    pruner_ms: float
    prefill_ms: float


@dataclass(frozen=True, eq=False)
class Begun:
    """A question that was read: logits [V] behind it, and how many tokens of an answer fit."""

    logits: NDArray[np.float32]
    room: int


class Reader(Protocol):
    """What the LLM of one stream knows."""

    def reset(self) -> None:
        """Forget the stream."""
        ...

    def take(self, seen: Seen) -> Taken:
        """Read a frame."""
        ...

    def begin(self, embeds: Tensor) -> Begun:
        """Read a question [S, D] behind the stream.

        Raises:
            QuestionError: It does not fit.
        """
        ...

    def extend(self, embeds: Tensor) -> NDArray[np.float32]:
        """Read more of the answer [S, D]; returns the logits [V] of the last token."""
        ...

    def end(self) -> None:
        """Forget question and answer."""
        ...


class StreamReader:
    """Prunes each frame by itself and prefills it at once, as a bundle does."""

    def __init__(self, model: TorchModel, policy: Policy, sink: tuple[int, ...]) -> None:
        """Start a stream.

        Args:
            model: Shared.
            policy: ``pruner`` and ``memory`` are read.
            sink: Token ids of the prompt before the video.

        Raises:
            UnsupportedError: The method has no reference.
            ResourceError: The memory does not hold the sink and one frame.
        """
        self._settings = _budgeted(policy.pruner)
        if self._settings.method not in PRUNERS:
            raise UnsupportedError(
                f'The reference has no pruning method "{self._settings.method}".',
                nearest(self._settings.method, PRUNERS),
            )
        self._model = model
        total = model.manifest.dims.vision.visual_tokens
        most = BUDGET_COSTS[self._settings.budget].most(total, self._settings)
        self._memory = StreamCache(model, policy, sink, most)
        self._next = 0
        self._start()

    def _start(self) -> None:
        self._pruner = PRUNERS[self._settings.method](self._settings)
        self._budget = BUDGETS[self._settings.budget](self._settings)

    def reset(self) -> None:
        """Forget the stream."""
        self._start()
        self._memory.reset()

    def take(self, seen: Seen) -> Taken:
        """Read a frame."""
        start = time.perf_counter()
        kept = self._prune(seen)
        indices = kept.indices.cpu().numpy()
        pruned = time.perf_counter()
        evicted = self._memory.add_frame(kept.tokens, indices)
        done = time.perf_counter()
        return Taken(len(indices), tuple(indices.tolist()), evicted, (pruned - start) * 1e3, (done - pruned) * 1e3)

    def _prune(self, seen: Seen) -> Kept:
        frame = VisualFrame(self._model.visual_tokens(seen.features), self._pooled(seen.last_layer))
        allotment = self._budget.allot(frame.tokens)
        kept = self._pruner.choose(frame, allotment.count)
        if allotment.remembered:
            self._pruner.remember(frame.tokens)
        return kept

    def _pooled(self, layer: LastLayer | None) -> LastLayer | None:
        if layer is None:
            return None
        return LastLayer(self._model.pooled(layer.attention[:, None])[:, 0], self._model.pooled(layer.keys))

    def begin(self, embeds: Tensor) -> Begun:
        """See :class:`Reader`."""
        plan = self._memory.question(len(embeds))
        self._next = plan.position
        return Begun(self.extend(embeds), plan.answer_room)

    def extend(self, embeds: Tensor) -> NDArray[np.float32]:
        """See :class:`Reader`."""
        logits = self._memory.extend(embeds, self._next)
        self._next += len(embeds)
        return logits

    def end(self) -> None:
        """See :class:`Reader`."""
        self._memory.forget_question()


def _budgeted(settings: PrunerPolicy) -> PrunerPolicy:
    """The method ``none`` keeps all tokens, whatever the budget."""
    return replace(settings, budget="fixed", keep=1.0) if settings.method == "none" else settings
