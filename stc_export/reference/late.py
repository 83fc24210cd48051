"""Methods that decide when a question is there: frames are kept as visual tokens, and the LLM reads them all then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stc_export.reference.encoder import Seen
from stc_export.reference.inside import Inside, Prompt, Reduced, View, run_layer, run_prompt, visual_counts
from stc_export.reference.model import TorchModel
from stc_export.reference.readers import Begun, Taken
from stc_export.spec.memory import kept_tokens, kv_budget
from stc_export.spec.policy import Policy
from stc_runtime.memory import planner

#: (clip [F, M, D], K) -> kept indices of each frame, ascending.
ChooseTokens = Callable[[Tensor, int], list[Tensor]]


class NothingInside:
    """All visual tokens in all layers."""

    def shares(self, layers: int, keep: float) -> tuple[float, ...]:
        """Return 1 for every layer."""
        del keep
        return (1.0,) * layers

    def reduce(self, view: View, count: int) -> Reduced:
        """Never called."""
        raise NotImplementedError


def every_token(clip: Tensor, keep: int) -> list[Tensor]:
    """Return all indices of each frame."""
    del keep
    return [torch.arange(clip.shape[1], device=clip.device)] * len(clip)


def _keep(_total: int, keep: int) -> int:
    return keep


@dataclass(frozen=True)
class LateMethod:
    """A method over the frames up to a question.

    Attributes:
        choose: What of the frames enters the LLM.
        entering: (M, K) -> how many tokens of a frame that are, on average.
        alone: (M, K) -> how many tokens are remembered of a clip of one frame.
        inside: What is dropped between the layers of the LLM.
    """

    choose: ChooseTokens
    entering: Callable[[int, int], int]
    alone: Callable[[int, int], int]
    inside: Inside


def before_llm(choose: ChooseTokens, alone: Callable[[int, int], int] = _keep) -> LateMethod:
    """Return a method that drops tokens of the frames together, before the LLM; ``alone`` as in :class:`LateMethod`."""
    return LateMethod(choose, _keep, alone, NothingInside())


def inside_llm(inside: Inside) -> LateMethod:
    """Return a method that drops tokens between the layers of the LLM."""
    return LateMethod(every_token, lambda total, _: total, _keep, inside)


class LateReader:
    """Remembers as many frames as a stream with K tokens per frame would, and reads them when there is a question.

    ``memory.kv_tokens`` counts K tokens per frame: for a method inside the LLM that is the mean over its layers. All
    its visual tokens must have positions in the first layers, so the model's context can hold fewer frames.
    """

    def __init__(self, method: LateMethod, model: TorchModel, policy: Policy, sink: tuple[int, ...]) -> None:
        """Start a stream.

        Args:
            method: What is dropped, and where.
            model: Shared.
            policy: ``pruner.keep`` and ``memory`` are read.
            sink: Token ids of the prompt before the video.

        Raises:
            PolicyError: The method cannot keep so little.
            ResourceError: The memory does not hold the sink and one frame.
        """
        dims, memory = model.manifest.dims, policy.memory
        total = dims.vision.visual_tokens
        self._method = method
        self._model = model
        self._keep = kept_tokens(total, policy.pruner.keep)
        self._shares = method.inside.shares(dims.text.layers, policy.pruner.keep)
        entering = method.entering(total, self._keep)
        self._span = {"contiguous": entering, "original": total}[memory.positions]
        self._gaps = {"contiguous": _without_gaps, "original": _as_in_frames}[memory.positions]
        context = dims.text.context
        limits = planner.Limits(kv_budget(memory, context), memory.answer_tokens, context, memory.frames)
        alone = method.alone(total, self._keep)
        self._begin = planner.start(limits, len(sink), alone, max(self._span, alone))
        self._sink = model.embed(sink)
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self._state = self._begin
        self._frames: list[Tensor] = []
        self.end()

    def end(self) -> None:
        """Forget question and answer."""
        self._cache: Any = None
        self._next = 0

    def take(self, seen: Seen) -> Taken:
        """Remember the visual tokens of a frame, all of them."""
        start = time.perf_counter()
        tokens = self._model.visual_tokens(seen.features)
        plan, self._state = planner.admit(self._state, "frame", self._keep, self._span)
        self._frames = [*self._frames[plan.evicted_frames :], tokens]
        return Taken(self._keep, (), plan.evicted_frames, (time.perf_counter() - start) * 1e3, 0.0)

    def begin(self, embeds: Tensor) -> Begun:
        """Choose, and read everything: the sink, what is chosen of the frames, and the question."""
        from transformers import DynamicCache

        plan = planner.question(self._state, len(embeds))
        prompt = self._prompt(embeds)
        self._cache = DynamicCache()
        self._next = int(prompt.positions[-1]) + 1
        counts = visual_counts(self._shares, prompt.visual.stop - prompt.visual.start)
        last = run_prompt(self._model, prompt, counts, self._method.inside, self._cache)
        return Begun(self._logits(last), plan.answer_room)

    def extend(self, embeds: Tensor) -> NDArray[np.float32]:
        """See :class:`stc_export.reference.readers.Reader`; one token at a time."""
        x = embeds
        for layer in self._model.language.layers:
            x = run_layer(self._model, layer, x, torch.tensor([self._next], device=x.device), self._cache)
        self._next += 1
        return self._logits(x[-1])

    def _logits(self, hidden: Tensor) -> NDArray[np.float32]:
        return self._model.logits(self._model.language.norm(hidden))

    def _prompt(self, question: Tensor) -> Prompt:
        clip = torch.stack(self._frames)
        chosen = self._method.choose(clip, self._keep)
        visual = [tokens[kept] for tokens, kept in zip(clip, chosen, strict=True)]
        embeds = torch.cat([self._sink, *visual, question])
        first, count = len(self._sink), sum(map(len, visual))
        places, span = self._gaps(chosen, clip.shape[1])
        end = first + span
        before, behind = torch.arange(first), torch.arange(end, end + len(question))
        positions = torch.cat([before.to(places.device), first + places, behind.to(places.device)])
        return Prompt(embeds, positions, slice(first, first + count))


def _without_gaps(chosen: list[Tensor], _total: int) -> tuple[Tensor, int]:
    """Return the positions of the kept tokens of all frames, and how many positions the frames cover."""
    count = sum(map(len, chosen))
    return torch.arange(count, device=chosen[0].device), count


def _as_in_frames(chosen: list[Tensor], total: int) -> tuple[Tensor, int]:
    return torch.cat([number * total + kept for number, kept in enumerate(chosen)]), len(chosen) * total
