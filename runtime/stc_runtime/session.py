"""One stream: frames go in, questions are answered at any moment, memory stays within what was declared."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import FrameError, QuestionError, SessionStateError
from stc_export.spec.manifest import Manifest, Piece
from stc_export.spec.policy import Policy
from stc_export.spec.report import AnswerPiece, FrameReport, MemoryUse
from stc_runtime.backends.base import Backend
from stc_runtime.encoder import FrameEncoder
from stc_runtime.language import StreamMemory
from stc_runtime.model import Model
from stc_runtime.preprocess import check_frame
from stc_runtime.pruner import FramePruner
from stc_runtime.sampling import TopP, greedy
from stc_runtime.text import Decoder

if TYPE_CHECKING:
    from typing_extensions import Self


class StreamSession:
    """A stream over an opened model. All state is in here, and all memory is reserved when it is made.

    Example::

        with StreamSession.open("llava.stc") as stream:
            for frame, seconds in camera:
                stream.push(frame, seconds)
            for piece in stream.ask("What is on the table?"):
                print(piece.text, end="")
    """

    def __init__(self, model: Model, policy: Policy | None = None) -> None:
        """Start a stream on a model that other sessions may share.

        Args:
            model: An opened bundle.
            policy: Settings; by default the bundle's own.

        Raises:
            BundleError: The bundle lacks a graph that the policy names.
            ResourceError: The policy's memory does not hold the prompt and one frame.
        """
        self._model = model
        self._policy = policy or model.manifest.policy
        self._encoder = FrameEncoder(model, self._policy)
        self._pruner = FramePruner(model, self._policy)
        self._memory = StreamMemory(
            model, self._policy, self._encoded(model.manifest.prompt.before_video), self._pruner.kept
        )
        self._last_s = -math.inf
        self._pushed = 0
        self._answering = False
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path, policy: Policy | None = None, backend: Backend | None = None) -> StreamSession:
        """Open a bundle and start a stream on it.

        Args:
            path: Directory of the bundle.
            policy: Settings; by default the bundle's own.
            backend: What executes the graphs; by default ONNX Runtime on the CPU.

        Raises:
            BundleError: The bundle is missing or damaged.
            MissingDependencyError: The backend is not installed.
        """
        return cls(Model.open(path, backend), policy)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the stream; nothing can be pushed or asked any more. The model stays open for other sessions."""
        self._closed = True

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""
        return self._model.manifest

    @property
    def policy(self) -> Policy:
        """Settings of this stream."""
        return self._policy

    @property
    def memory_use(self) -> MemoryUse:
        """Bytes that this session holds; constant for its life."""
        return MemoryUse(self._encoder.nbytes, self._memory.nbytes, self._pruner.nbytes)

    @property
    def remembered_frames(self) -> int:
        """Frames in the LLM's memory."""
        return self._memory.frames

    @property
    def remembered_tokens(self) -> int:
        """Tokens in the LLM's memory, system prompt included."""
        return self._memory.tokens

    def push(self, frame: NDArray[np.uint8], time_s: float) -> FrameReport:
        """Take the next frame: encode, prune and prefill it.

        Args:
            frame: uint8 [H, W, 3], RGB, any size.
            time_s: Its time in seconds, not before the last one's.

        Returns:
            What was done and how long it took.

        Raises:
            FrameError: A frame of another type or shape, or a time that goes backwards. The stream is unchanged.
            SessionStateError: The session is closed, busy in another thread, or an answer is not finished.
        """
        with self._exclusive():
            checked = check_frame(frame)
            self._check_time(time_s)
            encoded = self._encoder.encode(checked)
            kept, evicted, pruner_ms, prefill_ms = 0, 0, 0.0, 0.0
            # A skipped frame shows what the one before it showed: its tokens are in the LLM's memory already.
            if encoded.mode != "skip":
                start = time.perf_counter()
                tokens, indices = self._pruner.prune(encoded.features)
                pruned = time.perf_counter()
                evicted = self._memory.add_frame(tokens, indices)
                kept, pruner_ms = len(tokens), (pruned - start) * 1e3
                prefill_ms = (time.perf_counter() - pruned) * 1e3
            self._last_s = time_s
            self._pushed += 1
            return FrameReport(
                time_s=time_s,
                mode=encoded.mode,
                recomputed=encoded.recomputed,
                visual_tokens=self.manifest.dims.vision.visual_tokens,
                kept_tokens=kept,
                evicted_frames=evicted,
                gate_ms=encoded.gate_ms,
                vit_ms=encoded.vit_ms,
                pruner_ms=pruner_ms,
                prefill_ms=prefill_ms,
            )

    def ask(
        self, question: str, *, max_tokens: int = 64, sampling: TopP | None = None, remember: bool = False
    ) -> Generator[AnswerPiece, None, None]:
        """Answer a question about the stream so far; yields pieces as they are produced.

        The stream's memory is the same before and after, unless ``remember`` is set. Until the iterator is exhausted or
        closed, no frame can be pushed.

        Args:
            question: Text; what looks like a special token in it is only text.
            max_tokens: Longest answer.
            sampling: How tokens are drawn; by default the most likely one.
            remember: Keep question and answer in the stream's memory once the answer is complete.

        Raises:
            QuestionError: The question is empty, or longer than the memory's room for it.
            SessionStateError: No frame was pushed yet, or the session is closed or busy.
        """
        tokens = self._model.tokenizer.encode_prompt(self.manifest.prompt.after_video, question)
        decoder = Decoder(self._model.tokenizer)
        for token, elapsed_ms, step_ms in self._generate(tokens, max_tokens, sampling, remember=remember):
            text = decoder.push(token) if token is not None else decoder.finish()
            if token is not None or text:
                yield AnswerPiece(text, -1 if token is None else token, elapsed_ms, step_ms)

    def ask_tokens(
        self, tokens: Sequence[int], *, max_tokens: int = 64, sampling: TopP | None = None
    ) -> Generator[int, None, None]:
        """Like :meth:`ask` for a tail of the prompt that is tokenised already; needs no tokenizer on the device.

        Args:
            tokens: Token ids of everything after the video: question, end of turn, start of the answer.
            max_tokens: Longest answer.
            sampling: How tokens are drawn; by default the most likely one.

        Raises:
            QuestionError: No tokens, an id outside the vocabulary, or more than the memory's room.
            SessionStateError: No frame was pushed yet, or the session is closed or busy.
        """
        vocabulary = self.manifest.dims.text.vocab
        if not tokens or not all(0 <= token < vocabulary for token in tokens):
            raise QuestionError(
                f"A question of {len(tokens)} token ids was given; one or more from 0 to {vocabulary - 1} are needed.",
                "Use the tokenizer.json of the bundle.",
            )
        for token, _, _ in self._generate(tuple(tokens), max_tokens, sampling, remember=False):
            if token is not None:
                yield token

    def reset(self) -> None:
        """Forget the stream: afterwards the session is as it was when it was made.

        Raises:
            SessionStateError: The session is closed or busy.
        """
        with self._exclusive():
            self._encoder.reset()
            self._pruner.reset()
            self._memory.reset()
            self._last_s = -math.inf
            self._pushed = 0

    def _encoded(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        if all(piece.token is not None for piece in pieces):
            return tuple(piece.token for piece in pieces if piece.token is not None)
        return self._model.tokenizer.encode_prompt(pieces)

    def _generate(
        self, tokens: tuple[int, ...], max_tokens: int, sampling: TopP | None, *, remember: bool
    ) -> Generator[tuple[int | None, float, float], None, None]:
        """Yield (token, time since the question, time of its step) in ms; a last ``None`` marks a complete answer."""
        if max_tokens < 1:
            raise QuestionError(f"max_tokens is {max_tokens}, expected at least 1.", "Raise max_tokens.")
        with self._answer():
            start = last = time.perf_counter()
            embeds = np.concatenate([self._model.newline, self._model.embed(tokens)])
            tail = self._encoded(self.manifest.prompt.next_turn) if remember else ()
            plan = self._memory.begin_question(len(embeds) + len(tail))
            limit = min(max_tokens, plan.answer_room)
            draw = sampling or greedy
            logits = self._memory.extend(embeds, plan, 0)
            done = len(embeds)
            for count in range(1, limit + 1):
                token = draw(logits)
                if token in self.manifest.prompt.stop_tokens:
                    break
                now = time.perf_counter()
                yield token, (now - start) * 1e3, (now - last) * 1e3
                last = time.perf_counter()
                if count == limit and not remember:
                    break  # nobody needs what the model says after the last token
                logits = self._memory.extend(self._model.embed((token,)), plan, done)
                done += 1
            yield None, (time.perf_counter() - start) * 1e3, 0.0
            if remember:
                self._memory.extend(self._model.embed(tail), plan, done)
                self._memory.remember_question(done + len(tail))

    @contextmanager
    def _answer(self) -> Iterator[None]:
        with self._exclusive():
            if not self._pushed:
                raise SessionStateError("A question was asked before any frame was pushed.", "Push a frame first.")
            self._answering = True
        try:
            yield
        finally:
            self._memory.forget_question()
            self._answering = False

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise SessionStateError(
                "The session is in use by another thread.", "Use one session per thread, or a lock."
            )
        try:
            if self._closed:
                raise SessionStateError("The session is closed.", "Open a new one.")
            if self._answering:
                raise SessionStateError(
                    "An answer of this session is not finished.",
                    "Exhaust or close the iterator that ask() returned first.",
                )
            yield
        finally:
            self._lock.release()

    def _check_time(self, time_s: float) -> None:
        if not isinstance(time_s, (int, float)) or not math.isfinite(time_s):
            raise FrameError(f"The frame's time is {time_s!r}, expected seconds.", "Pass a finite number.")
        if time_s < self._last_s:
            raise FrameError(
                f"The frame's time is {time_s:g} s, but the last frame's was {self._last_s:g} s.",
                "Push frames in order, or call reset() for a new stream.",
            )
