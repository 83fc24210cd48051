"""The language model of one stream: its KV memory, prefill and decoding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import QuestionError
from stc_export.spec.interface import kv_format
from stc_export.spec.memory import kv_budget
from stc_runtime.memory import planner
from stc_runtime.memory.kv import KVMemory, KVShape
from stc_runtime.memory.step import LLM_FORMS

if TYPE_CHECKING:
    from stc_export.spec.policy import Policy
    from stc_runtime.backends.store import Tensor
    from stc_runtime.memory.step import Logits
    from stc_runtime.model import Model


class StreamMemory:
    """What the LLM remembers of one stream: a sink, then frames and dialogues."""

    def __init__(self, model: Model, policy: Policy, sink: tuple[int, ...], frame_tokens: int) -> None:
        """Open the LLM, reserve the KV memory and prefill the sink.

        Args:
            model: Shared engines.
            policy: Settings of the stream.
            sink: Token ids of the prompt before the video.
            frame_tokens: Most tokens of one frame.

        Raises:
            ResourceError: The budget does not hold the sink and one frame, or the graph has fewer slots than it needs.
        """
        text = model.manifest.dims.text
        self._engine = model.engine("llm")
        self._form = LLM_FORMS[model.manifest.flavour]
        memory = policy.memory
        self._limits = planner.Limits(
            kv_budget(memory, text.context), memory.answer_tokens, text.context, memory.frames
        )
        self._original = policy.memory.positions == "original"
        self._visual_tokens = model.manifest.dims.vision.visual_tokens
        self._frame_tokens = frame_tokens
        self._sink = model.embed(sink)
        self._start()  # checks the budget before memory is reserved for it
        slots = self._form.slots(model.manifest, self._limits.capacity)
        shape = KVShape(
            text.layers,
            text.kv_heads,
            text.head_dim,
            slots.capacity,
            max(1, len(sink)),
            slots.least,
            kv_format(model.manifest.graph("llm")),
        )
        self._kv = KVMemory(shape, model.dtype, text.rope_theta, model.backend.llm.store)
        self._beside = model.backend.llm is not model.backend
        self._unread: Logits | None = None
        self._state = self.reset()

    @property
    def nbytes(self) -> int:
        """Bytes of the KV memory."""
        return self._kv.nbytes

    @property
    def tokens(self) -> int:
        """Tokens remembered, sink included."""
        return self._state.used

    @property
    def frames(self) -> int:
        """Frames remembered."""
        return self._state.frames

    def reset(self) -> planner.MemoryState:
        """Forget the stream and prefill the sink."""
        self._unread = None
        self._kv.reset()
        self._remember(self._start())
        if len(self._sink):
            self._forward(self._sink, 0, np.arange(len(self._sink), dtype=np.int64))
        self._kv.set_sink(len(self._sink))
        return self._state

    def _remember(self, state: planner.MemoryState) -> None:
        """Take over a new state, and have slots for a question at once.

        P, the slots that the graph sees, then depends on what is remembered only. If it grew with a question instead,
        the numbers after the question would differ in their last bits from those without it.
        """
        self._state = state
        self._kv.ensure(state.used + self._limits.answer_tokens)

    def _start(self) -> planner.MemoryState:
        return planner.start(self._limits, len(self._sink), self._frame_tokens, self._span(self._frame_tokens))

    def _span(self, tokens: int) -> int:
        return self._visual_tokens if self._original else tokens

    def add_frame(self, tokens: NDArray[Any], indices: NDArray[np.int64]) -> int:
        """Prefill the kept tokens of a frame and remember them. A frame that keeps none leaves the memory as it is.

        An LLM that works beside the encoder may be at it when this returns: see :meth:`settle`.

        Args:
            tokens: Visual tokens [K, D].
            indices: Their raster indices [K], ascending.

        Returns:
            Frames that were evicted to make room.
        """
        if not len(tokens):
            return 0
        plan, state = planner.admit(self._state, "frame", len(tokens), self._span(len(tokens)))
        self._kv.apply(plan)
        self._remember(state)
        offsets = indices if self._original else np.arange(len(tokens), dtype=np.int64)
        self._unread = self._begin(tokens, plan.slot, plan.position + offsets)
        if not self._beside:
            self.settle()
        return plan.evicted_frames

    def settle(self) -> None:
        """Wait until the last frame is prefilled. To be called before anything else that changes the memory.

        Raises:
            StcError: The LLM failed, or gave numbers that are not finite.
        """
        unread, self._unread = self._unread, None
        if unread is not None:
            unread()

    def begin_question(self, tokens: int, *, remember: bool) -> planner.QuestionPlan:
        """Place a question of ``tokens`` tokens and its answer; the stream's memory stays as it is.

        Args:
            tokens: Tokens of the question with its prompt, and of what follows its answer.
            remember: Whether all of them are to stay, so that they must fit in the stream's memory, too.

        Raises:
            QuestionError: It does not fit.
        """
        plan = planner.question(self._state, tokens)
        if not remember:
            return plan
        room = self._limits.kv_tokens - len(self._sink) - tokens
        if room < 1:
            raise QuestionError(
                f"The question has {tokens} tokens with its prompt, and the stream's memory has room for "
                f"{self._limits.kv_tokens - len(self._sink)} tokens: with an answer it cannot be remembered.",
                "Ask without remember, shorten the question, or raise memory.kv_tokens in the policy.",
            )
        return replace(plan, answer_room=min(plan.answer_room, room))

    def extend(self, embeds: NDArray[Any], plan: planner.QuestionPlan, done: int) -> NDArray[np.float32]:
        """Run tokens of a question or answer; returns the logits [V] of the last.

        Args:
            embeds: Embeddings [S, D].
            plan: Place of the question.
            done: Tokens of question and answer that were run before.
        """
        positions = np.arange(len(embeds), dtype=np.int64) + (plan.position + done)
        return self._forward(embeds, plan.slot + done, positions)

    def forget_question(self) -> None:
        """Hide everything behind the stream's memory."""
        self._kv.used = self._state.used

    def remember_question(self, tokens: int) -> None:
        """Keep the ``tokens`` tokens that were run since :meth:`begin_question` as part of the stream."""
        plan, state = planner.admit(self._state, "dialogue", tokens, tokens)
        self._kv.apply(plan)
        self._remember(state)
        self._kv.used = state.used

    def _forward(self, embeds: NDArray[Any], slot: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._begin(embeds, slot, positions)()[0]
        return logits

    def _begin(self, embeds: NDArray[Any], slot: int, positions: NDArray[np.int64]) -> Logits:
        count = len(embeds)
        self._kv.used = slot
        feeds: dict[str, Tensor] = {
            "inputs_embeds": np.ascontiguousarray(embeds)[None],
            "position_ids": positions[None],
            "past_bias": self._kv.bias(),
        }
        logits = self._form.run(self._engine, self._kv, feeds, slot)
        self._kv.used = slot + count
        return logits
