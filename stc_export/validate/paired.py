"""A stream that is watched beside an uncompressed one on the same model, frame by frame and question by question."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.manifest import Manifest
from stc_export.spec.report import AnswerPiece, FrameReport
from stc_export.validate.closeness import cosine, divergence, relative_error
from stc_export.validate.types import ClipFidelity
from stc_runtime.session import StreamSession

if TYPE_CHECKING:
    Array = NDArray[Any]


class DenseStream(Protocol):
    """An uncompressed stream; see :class:`stc_runtime.session.StreamSession`."""

    @property
    def features(self) -> Array:
        """ViT features [T, C] of the newest frame."""
        ...

    @property
    def visual_tokens(self) -> Array:
        """Projected visual tokens [M, D] of the newest frame."""
        ...

    @property
    def first_logits(self) -> NDArray[np.float32]:
        """Logits [V] of the first token of the last answer."""
        ...

    def push(self, frame: NDArray[np.uint8], time_s: float, /) -> object:
        """Take the next frame."""
        ...

    def ask(self, question: str, /, *, max_tokens: int) -> Iterator[AnswerPiece]:
        """Answer a question."""
        ...

    def reset(self) -> None:
        """Forget the stream."""
        ...

    def close(self) -> None:
        """End the stream."""
        ...


class PairedStream:
    """Gives every frame and question to both streams, answers with the compressed one, and compares the two.

    Args:
        session: The stream that is validated.
        dense: An uncompressed stream on the same model, or a recording of one.
    """

    def __init__(self, session: StreamSession, dense: DenseStream) -> None:
        self._session, self._dense = session, dense
        self._features: list[tuple[float, float]] = []
        self._tokens: list[tuple[float, float]] = []
        self._first: list[tuple[bool, float]] = []
        self.dense_answers: list[str] = []

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""
        return self._session.manifest

    @property
    def found(self) -> ClipFidelity:
        """What was compared since the last :meth:`reset`."""
        return ClipFidelity(
            feature_cosine=tuple(cosine for cosine, _ in self._features),
            feature_error=tuple(error for _, error in self._features),
            token_cosine=tuple(cosine for cosine, _ in self._tokens),
            token_error=tuple(error for _, error in self._tokens),
            same_first=tuple(same for same, _ in self._first),
            divergence=tuple(nats for _, nats in self._first),
        )

    def reset(self) -> None:
        """Start both streams anew and forget what was compared."""
        self._session.reset()
        self._dense.reset()
        for samples in (self._features, self._tokens, self._first, self.dense_answers):
            samples.clear()

    def close(self) -> None:
        """End both streams."""
        self._session.close()
        self._dense.close()

    def push(self, frame: NDArray[np.uint8], time_s: float) -> FrameReport:
        """Push a frame to both; see :meth:`stc_runtime.session.StreamSession.push`."""
        self._dense.push(frame, time_s)
        report = self._session.push(frame, time_s)
        self._features.append(_closeness(self._session.features, self._dense.features))
        if report.kept_tokens:
            same = self._dense.visual_tokens[list(report.kept_indices)]
            self._tokens.append(_closeness(self._session.visual_tokens, same))
        return report

    def ask(self, question: str, *, max_tokens: int) -> Generator[AnswerPiece, None, None]:
        """Ask both, the uncompressed stream first; yields the pieces of the other."""
        self.dense_answers.append("".join(one.text for one in self._dense.ask(question, max_tokens=max_tokens)))
        yield from self._session.ask(question, max_tokens=max_tokens)
        ours, dense = self._session.first_logits, self._dense.first_logits
        self._first.append((int(np.argmax(ours)) == int(np.argmax(dense)), divergence(dense, ours)))


def _closeness(found: Array, dense: Array) -> tuple[float, float]:
    return cosine(found, dense), relative_error(found, dense)
