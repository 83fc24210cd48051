"""What a validation needs of a stream: :class:`stc_runtime.session.StreamSession` has it, and so has the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from stc_export.spec.manifest import Manifest
from stc_export.spec.report import AnswerPiece, FrameReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Session(Protocol):
    """One stream: frames go in, questions are answered about what was seen so far."""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""
        ...

    def push(self, frame: NDArray[np.uint8], time_s: float, /) -> FrameReport:
        """Take the next frame, uint8 [H, W, 3] RGB, with its time in seconds."""
        ...

    def ask(self, question: str, /, *, max_tokens: int) -> Iterator[AnswerPiece]:
        """Answer a question; the stream is the same before and after."""
        ...

    def reset(self) -> None:
        """Forget the stream."""
        ...

    def close(self) -> None:
        """End the stream."""
        ...
