"""A stream in the original model, with the calls of the runtime's ``StreamSession`` that a validation uses."""

from __future__ import annotations

import time
from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray

from stc_export.reference.known import check_known
from stc_export.reference.methods import check_budget
from stc_export.reference.model import TorchModel
from stc_export.reference.parts import find_parts
from stc_export.reference.readers import Taken
from stc_export.spec.errors import QuestionError, SessionStateError
from stc_export.spec.manifest import Manifest
from stc_export.spec.policy import Policy
from stc_export.spec.report import AnswerPiece, FrameReport
from stc_runtime.preprocess import check_frame
from stc_runtime.sampling import greedy
from stc_runtime.text import Decoder

_NOTHING = Taken(0, (), 0, 0.0, 0.0)


class TorchSession:
    """A stream over an opened checkpoint, for one thread. A question leaves the stream as it was."""

    def __init__(self, model: TorchModel, policy: Policy) -> None:
        """Start a stream on a model that other sessions may share.

        Args:
            model: An opened checkpoint.
            policy: Settings, which may name a method that runs in the reference only.

        Raises:
            UnsupportedError: The method or a key has no reference, or not with this attention.
            PolicyError: The method cannot keep so little, or does not take the budget.
            ResourceError: The policy's memory does not hold the prompt and one frame.
        """
        check_known(policy)
        check_budget(policy.pruner)
        sink = model.tokenizer.encode_prompt(model.manifest.prompt.before_video)
        parts = find_parts(policy.pruner.method)
        self._encoder = parts.encoder(model, policy)
        self._reader = parts.reader(model, policy, sink)
        self._model = model
        self._policy = policy
        self._pushed = 0
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle that was built from the checkpoint."""
        return self._model.manifest

    @property
    def policy(self) -> Policy:
        """Settings of this stream."""
        return self._policy

    def close(self) -> None:
        """End the stream. The model stays open for other sessions."""
        self._closed = True

    def reset(self) -> None:
        """Forget the stream.

        Raises:
            SessionStateError: The session is closed.
        """
        self._check_open()
        self._encoder.reset()
        self._reader.reset()
        self._pushed = 0

    def push(self, frame: NDArray[np.uint8], time_s: float) -> FrameReport:
        """Take the next frame, uint8 [H, W, 3] RGB of any size, with its time in seconds.

        Raises:
            FrameError: A frame of another type or shape.
            SessionStateError: The session is closed.
        """
        self._check_open()
        encoded = self._encoder.encode(check_frame(frame))
        taken = _NOTHING if encoded.seen is None else self._reader.take(encoded.seen)
        self._pushed += 1
        return FrameReport(
            time_s=time_s,
            mode=encoded.mode,
            recomputed=encoded.recomputed,
            recomputed_indices=encoded.indices,
            similarity=encoded.similarity,
            change=encoded.change,
            visual_tokens=self.manifest.dims.vision.visual_tokens,
            kept_tokens=taken.kept,
            kept_indices=taken.indices,
            evicted_frames=taken.evicted,
            gate_ms=encoded.gate_ms,
            vit_ms=encoded.vit_ms,
            pruner_ms=taken.pruner_ms,
            prefill_ms=taken.prefill_ms,
        )

    def ask(self, question: str, *, max_tokens: int = 64) -> Generator[AnswerPiece, None, None]:
        """Answer a question about the stream so far, greedily; yields pieces as they are produced.

        Args:
            question: Text; what looks like a special token in it is only text.
            max_tokens: Longest answer.

        Raises:
            QuestionError: The question is empty, or longer than the memory's room for it.
            SessionStateError: No frame was pushed yet, or the session is closed.
        """
        self._check_open()
        if not self._pushed:
            raise SessionStateError("A question was asked before any frame was pushed.", "Push a frame first.")
        if max_tokens < 1:
            raise QuestionError(f"max_tokens is {max_tokens}, expected at least 1.", "Raise max_tokens.")
        decoder = Decoder(self._model.tokenizer)
        start = last = time.perf_counter()
        for token in self._tokens(question, max_tokens):
            now = time.perf_counter()
            yield AnswerPiece(decoder.push(token), token, (now - start) * 1e3, (now - last) * 1e3)
            last = time.perf_counter()
        if rest := decoder.finish():
            yield AnswerPiece(rest, -1, (time.perf_counter() - start) * 1e3, 0.0)

    def _tokens(self, question: str, most: int) -> Generator[int, None, None]:
        prompt = self._model.manifest.prompt
        ids = self._model.tokenizer.encode_prompt(prompt.after_video, question)
        try:
            begun = self._reader.begin(torch.cat([self._model.newline, self._model.embed(ids)]))
            logits, limit = begun.logits, min(most, begun.room)
            for count in range(1, limit + 1):
                token = greedy(logits)
                if token in prompt.stop_tokens:
                    return
                yield token
                if count < limit:
                    logits = self._reader.extend(self._model.embed((token,)))
        finally:
            self._reader.end()

    def _check_open(self) -> None:
        if self._closed:
            raise SessionStateError("The session is closed.", "Open a new one.")
