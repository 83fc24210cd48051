"""What the LLM remembers of a stream, in transformers' own cache: the planner of the runtime says what goes where."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stc_export.reference.model import TorchModel
from stc_export.spec.errors import UnsupportedError
from stc_export.spec.memory import kv_budget
from stc_export.spec.policy import Policy
from stc_runtime.memory import planner


class StreamCache:
    """A sink, then frames, as keys and values in a ``DynamicCache``."""

    def __init__(self, model: TorchModel, policy: Policy, sink: tuple[int, ...], frame_tokens: int) -> None:
        """Prefill the sink.

        Args:
            model: Shared.
            policy: ``memory`` is read.
            sink: Token ids of the prompt before the video.
            frame_tokens: Most tokens of one frame.

        Raises:
            ResourceError: The budget does not hold the sink and one frame.
            UnsupportedError: Attention that takes no gaps between positions.
        """
        if policy.memory.positions == "original" and not model.form.gaps:
            raise UnsupportedError(
                f'memory.positions is "original", which leaves gaps that {model.form.name} takes for another sequence.',
                'Choose --attention sdpa, or memory.positions "contiguous".',
            )
        context = model.manifest.dims.text.context
        memory = policy.memory
        limits = planner.Limits(kv_budget(memory, context), memory.answer_tokens, context, memory.frames)
        self._model = model
        self._total = model.manifest.dims.vision.visual_tokens
        self._positions = policy.memory.positions
        self._embedded = model.embed(sink)
        self._begin = planner.start(limits, len(sink), frame_tokens, self._span(frame_tokens))
        self.reset()

    def reset(self) -> None:
        """Forget the stream and prefill the sink."""
        from transformers import DynamicCache

        self._cache = DynamicCache()
        self._state = self._begin
        if len(self._embedded):
            self._run(self._embedded, np.arange(len(self._embedded)))
        #: Keys of the sink at position 0: every move starts from them, so that rounding never adds up.
        self._sink_keys = [layer.keys.clone() for layer in self._cache.layers]

    def add_frame(self, tokens: Tensor, indices: NDArray[np.int64]) -> int:
        """Prefill the kept tokens [K, D] of a frame with their raster indices [K]; return how many frames left.

        A frame of which nothing is kept changes nothing.
        """
        if not len(indices):
            return 0
        offsets = {"contiguous": np.arange(len(tokens)), "original": indices}[self._positions]
        plan, state = planner.admit(self._state, "frame", len(tokens), self._span(len(tokens)))
        self._make_room(plan)
        self._state = state
        self._run(tokens, plan.position + offsets)
        return plan.evicted_frames

    def question(self, tokens: int) -> planner.QuestionPlan:
        """Place a question of ``tokens`` tokens with its answer.

        Raises:
            QuestionError: It does not fit.
        """
        return planner.question(self._state, tokens)

    def extend(self, embeds: Tensor, position: int) -> NDArray[np.float32]:
        """Run tokens [S, D] of a question or answer from a position on; returns the logits [V] of the last."""
        return self._model.logits(self._run(embeds, np.arange(position, position + len(embeds))))

    def forget_question(self) -> None:
        """Leave what was remembered before the question."""
        for layer in self._cache.layers:
            layer.keys = layer.keys[:, :, : self._state.used]
            layer.values = layer.values[:, :, : self._state.used]

    def _span(self, tokens: int) -> int:
        """Return the positions of a frame of which so many tokens are kept."""
        return {"contiguous": tokens, "original": self._total}[self._positions]

    def _make_room(self, plan: planner.AdmitPlan) -> None:
        """Drop what leaves, move survivors down if the plan says so, and rotate the sink to stand before them."""
        sink, first = plan.sink, plan.sink + plan.evicted_slots
        masters = self._sink_keys or [layer.keys[:, :, :0] for layer in self._cache.layers]
        for layer, master in zip(self._cache.layers, masters, strict=True):
            survivors = self._rotated(layer.keys[:, :, first:], -plan.rebase_by)
            layer.keys = torch.cat([self._rotated(master, plan.origin), survivors], dim=2)
            layer.values = torch.cat([layer.values[:, :, :sink], layer.values[:, :, first:]], dim=2)

    def _rotated(self, keys: Tensor, by: int) -> Tensor:
        """Return keys [1, heads, N, d] as if computed ``by`` positions later."""
        if not by or not keys.shape[2]:
            return keys
        from transformers.models.qwen2.modeling_qwen2 import rotate_half

        angle = torch.tensor([[by]], device=keys.device)
        cos, sin = self._model.language.rotary_emb(keys.float(), angle)
        turned: Tensor = keys.float() * cos[:, None] + rotate_half(keys.float()) * sin[:, None]
        return turned.to(keys.dtype)

    def _run(self, embeds: Tensor, positions: NDArray[Any]) -> Tensor:
        """Run tokens [S, D] behind the cache; returns the last hidden state [D]."""
        ids = self._model.tensor(positions.astype(np.int64))[None]
        out = self._model.language(
            inputs_embeds=embeds[None], position_ids=ids, past_key_values=self._cache, use_cache=True
        )
        last: Tensor = out.last_hidden_state[0, -1]
        return last
