"""One stream: frames go in, questions are answered at any moment, memory stays within what was declared."""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import FrameError, QuestionError, SessionStateError, StcError
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
            ResourceError: The policy's memory does not hold the prompt and the largest frame that its budget allows.
        """
        self._model = model
        self._policy = policy or model.manifest.policy
        self._encoder = FrameEncoder(model, self._policy)
        self._pruner = FramePruner(model, self._policy)
        self._memory = StreamMemory(
            model, self._policy, self._encoded(model.manifest.prompt.before_video), self._pruner.most
        )
        self._last_s = self._prefilled_s = -math.inf
        self._pushed = 0
        self._visual_tokens, self._first_logits = self._nothing_seen()
        self._answering = False
        self._damaged = False
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
        """Close; an error that is on its way hides one that closing would raise."""
        self._closed = True
        if error is None:
            self.close()

    def close(self) -> None:
        """End the stream; nothing can be pushed or asked any more. The model stays open for other sessions.

        Raises:
            StcError: The last frame could not be prefilled, on a target whose LLM works beside the encoder.
        """
        self._closed = True
        self._settle()

    @property
    def model(self) -> Model:
        """The opened bundle; other sessions may share it."""
        return self._model

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

    @property
    def features(self) -> NDArray[Any]:
        """ViT features [T, C] of the newest frame, of a skipped one those of the frame before; zeros without any.

        They are copied from wherever the backend has them, each time that they are read. In a bf16 bundle they are
        uint16 that carry bfloat16 (:mod:`stc_runtime.dtypes`).

        Raises:
            SessionStateError: The session is closed, busy in another thread, or an answer is not finished.
        """
        with self._exclusive():
            return self._encoder.read_features()

    @property
    def visual_tokens(self) -> NDArray[Any]:
        """Projected visual tokens [K, D] that the LLM got of the last frame that was not skipped; not to be changed.

        They are in the order of its ``kept_indices``, in the type of :attr:`features`; [0, D] without any.
        """
        return self._visual_tokens

    @property
    def first_logits(self) -> NDArray[np.float32]:
        """Logits [V] that the first token of the last answer was drawn from; not to be changed. [0] without any."""
        return self._first_logits

    def push(self, frame: NDArray[np.uint8], time_s: float) -> FrameReport:
        """Take the next frame: encode, prune and prefill it.

        Args:
            frame: uint8 [H, W, 3], RGB, any size.
            time_s: Its time in seconds, not before the last one's.

        Returns:
            What was done and how long it took.

        Raises:
            FrameError: A frame of another type or shape, or a time that goes backwards. The stream is unchanged.
            SessionStateError: The session is closed, busy in another thread, an answer is not finished, or an earlier
                call failed midway.
            StcError: On a target whose LLM works beside the encoder also an error of a frame before, which it names.
        """
        with self._exclusive():
            checked, seconds = check_frame(frame), _seconds(time_s)
            if seconds < self._last_s:
                raise FrameError(
                    f"The frame's time is {seconds:g} s, but the last frame's was {self._last_s:g} s.",
                    "Push frames in order, or call reset() for a new stream.",
                )
            with self._changing():
                return self._take(checked, seconds)

    def ask(
        self, question: str, *, max_tokens: int = 64, sampling: TopP | None = None, remember: bool = False
    ) -> Generator[AnswerPiece, None, None]:
        """Answer a question about the stream so far; yields pieces as they are produced.

        The stream's memory is the same before and after, unless ``remember`` is set. Nothing happens, and no error is
        raised, before the first piece is taken. From then until the iterator is exhausted or closed, no frame can be
        pushed.

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
        with closing(self._generate(tokens, max_tokens, sampling, remember=remember)) as steps:
            for token, elapsed_ms, step_ms in steps:
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
        ids = _token_ids(tokens, self.manifest.dims.text.vocab)
        with closing(self._generate(ids, max_tokens, sampling, remember=False)) as steps:
            for token, _, _ in steps:
                if token is not None:
                    yield token

    def reset(self) -> None:
        """Forget the stream: afterwards the session is as it was when it was made.

        Raises:
            SessionStateError: The session is closed or busy.
        """
        with self._exclusive(damaged_too=True), self._changing():
            self._encoder.reset()
            self._pruner.reset()
            self._memory.reset()
            self._last_s = -math.inf
            self._pushed = 0
            self._visual_tokens, self._first_logits = self._nothing_seen()

    def _take(self, frame: NDArray[np.uint8], time_s: float) -> FrameReport:
        encoded = self._encoder.encode(frame)
        kept: tuple[int, ...] = ()
        evicted, pruner_ms, prefill_ms = 0, 0.0, 0.0
        # A skipped frame shows what the one before it showed: its tokens are in the LLM's memory already.
        if encoded.mode != "skip":
            start = time.perf_counter()
            tokens, indices = self._pruner.prune(encoded.features, encoded.attention)
            pruned = time.perf_counter()
            kept = tuple(indices.tolist())
            if kept:
                self._settle()
                evicted = self._memory.add_frame(tokens, indices)
                self._prefilled_s = time_s
            self._visual_tokens = tokens
            pruner_ms = (pruned - start) * 1e3
            prefill_ms = (time.perf_counter() - pruned) * 1e3 if kept else 0.0
        self._last_s = time_s
        self._pushed += 1
        return FrameReport(
            time_s=time_s,
            mode=encoded.mode,
            recomputed=encoded.recomputed,
            recomputed_indices=encoded.recomputed_indices,
            similarity=encoded.similarity,
            change=encoded.change,
            visual_tokens=self.manifest.dims.vision.visual_tokens,
            kept_tokens=len(kept),
            kept_indices=kept,
            evicted_frames=evicted,
            gate_ms=encoded.gate_ms,
            vit_ms=encoded.vit_ms,
            pruner_ms=pruner_ms,
            prefill_ms=prefill_ms,
        )

    def _settle(self) -> None:
        """Wait until the last frame is prefilled; an error of that says which frame it was."""
        try:
            self._memory.settle()
        except StcError as error:
            problem = f"{error.problem.rstrip('.')}, at the frame of {self._prefilled_s:g} s, which was pushed before."
            raise type(error)(problem, error.fix) from error

    def _nothing_seen(self) -> tuple[NDArray[Any], NDArray[np.float32]]:
        return np.zeros((0, self.manifest.dims.text.width), self._model.dtype), np.zeros(0, np.float32)

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
            plan = self._memory.begin_question(len(embeds) + len(tail), remember=remember)
            limit = min(max_tokens, plan.answer_room)
            draw = sampling or greedy
            self._first_logits = logits = self._memory.extend(embeds, plan, 0)
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
                if tail:
                    self._memory.extend(self._model.embed(tail), plan, done)
                with self._changing():
                    self._memory.remember_question(done + len(tail))

    @contextmanager
    def _answer(self) -> Iterator[None]:
        with self._exclusive():
            if not self._pushed:
                raise SessionStateError("A question was asked before any frame was pushed.", "Push a frame first.")
            with self._changing():
                self._settle()
            self._answering = True
        try:
            yield
        finally:
            self._memory.forget_question()
            self._answering = False

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the stream for damaged while it is changed: it stays so when an error or Ctrl-C comes in between."""
        self._damaged = True
        yield
        self._damaged = False

    @contextmanager
    def _exclusive(self, *, damaged_too: bool = False) -> Iterator[None]:
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
            if self._damaged and not damaged_too:
                raise SessionStateError(
                    "An earlier call on this session failed midway, so what it remembers may be incomplete.",
                    "Call reset() to start a new stream.",
                )
            yield
        finally:
            self._lock.release()


def _seconds(time_s: object) -> float:
    """Return a frame's time as a number; numpy's scalars are numbers, too."""
    try:
        if isinstance(time_s, Real) and math.isfinite(seconds := float(time_s)):
            return seconds
    except OverflowError:  # a whole number that no float holds
        pass
    raise FrameError(f"The frame's time is {repr(time_s)[:40]}, expected seconds.", "Pass a finite number.")


def _token_ids(tokens: Iterable[int], vocabulary: int) -> tuple[int, ...]:
    fix = "Use the tokenizer.json of the bundle."
    try:
        ids = tuple(operator.index(token) for token in tokens)
    except TypeError as error:
        raise QuestionError(f"The question is {repr(tokens)[:40]}, expected token ids.", fix) from error
    if not ids:
        raise QuestionError("The question has no token ids, expected at least one.", fix)
    wrong = [token for token in ids if not 0 <= token < vocabulary]
    if wrong:
        raise QuestionError(f"The question has the token id {wrong[0]}, expected 0 to {vocabulary - 1}.", fix)
    return ids
