"""An uncompressed stream that many others are compared with: what it did on a clip is kept, and played again.

Beside a hundred compressed streams it would do the same work a hundred times, and take their memory bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.report import AnswerPiece
from stc_export.validate.paired import DenseStream
from stc_export.validate.recent import Recent

if TYPE_CHECKING:
    Array = NDArray[Any]


@dataclass
class _Record:
    """(features, visual tokens) of each frame and (text, first logits) of each answer, in order."""

    frames: list[tuple[Array, Array]] = field(default_factory=list)
    answers: list[tuple[str, NDArray[np.float32]]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        frames = sum(features.nbytes + tokens.nbytes for features, tokens in self.frames)
        return frames + sum(logits.nbytes for _, logits in self.answers)


class RecordedStream:
    """Stands for an uncompressed stream in :class:`stc_export.validate.paired.PairedStream`.

    Args:
        session: The stream that does the work the first time.
        most_bytes: Room for what is kept.
    """

    def __init__(self, session: DenseStream, most_bytes: int) -> None:
        self._session = session
        self._kept: Recent[_Record] = Recent(most_bytes)
        self._clip, self._record, self._known = "", _Record(), False
        self._frame = self._answer = -1

    def begin(self, clip: str) -> None:
        """Turn to a clip: the same frames and questions follow whenever it has this name."""
        kept = self._kept.get(clip)
        self._clip, self._record, self._known = clip, kept or _Record(), kept is not None

    def finish(self) -> None:
        """Keep what was recorded of the clip, which was watched to its end."""
        self._kept.put(self._clip, self._record, self._record.nbytes)

    def reset(self) -> None:
        """Go to the start of the clip."""
        self._frame = self._answer = -1
        if not self._known:
            self._record = _Record()
            self._session.reset()

    def push(self, frame: NDArray[np.uint8], time_s: float) -> None:
        """Take the next frame."""
        if not self._known:
            self._session.push(frame, time_s)
            self._record.frames.append((np.array(self._session.features), np.array(self._session.visual_tokens)))
        self._frame += 1

    def ask(self, question: str, *, max_tokens: int) -> Iterator[AnswerPiece]:
        """Answer the next question, in one piece."""
        if not self._known:
            text = "".join(piece.text for piece in self._session.ask(question, max_tokens=max_tokens))
            self._record.answers.append((text, np.array(self._session.first_logits)))
        self._answer += 1
        yield AnswerPiece(self._record.answers[self._answer][0], -1, 0.0, 0.0)

    @property
    def features(self) -> Array:
        """ViT features [T, C] of the newest frame."""
        return self._record.frames[self._frame][0]

    @property
    def visual_tokens(self) -> Array:
        """Projected visual tokens [M, D] of the newest frame."""
        return self._record.frames[self._frame][1]

    @property
    def first_logits(self) -> NDArray[np.float32]:
        """Logits [V] of the first token of the last answer."""
        return self._record.answers[self._answer][1]

    def close(self) -> None:
        """End the stream."""
        self._session.close()
