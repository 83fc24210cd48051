"""A weight file being written: tensors at page boundaries, with size and digest of all that is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from stc_export.exporter.journal import Kept

#: Memory pages; ONNX Runtime maps external data whose offset is a multiple of the allocation granularity.
ALIGNMENT = 4096


def padded(size: int) -> int:
    """Return the bytes up to the next page boundary."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class WeightOutput:
    """Appends tensors to a file; a second thread computes the digest of a block while the next one is made.

    Args:
        file: Where to append.
        kept: What the file has already.
        advance: Called with the bytes written since the last call.
    """

    def __init__(self, file: BinaryIO, kept: Kept, advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance
        self._digest, self.size = kept.digest, kept.size_bytes
        self._thread = ThreadPoolExecutor(1)
        self._hashed: Future[None] | None = None

    def __enter__(self) -> Self:
        """Take part in ``with``, which ends the thread."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the thread; the digest stays readable."""
        self._thread.shutdown()

    @property
    def digest(self) -> Any:
        """SHA-256 of all that was written."""
        self._wait()
        return self._digest

    def write(self, blocks: Iterator[NDArray[Any]]) -> None:
        """Append a tensor."""
        for block in blocks:
            self._append(np.ascontiguousarray(block).data.cast("B"))
            self._advance(block.nbytes)
        self._append(memoryview(bytes(padded(self.size) - self.size)))

    def _append(self, data: memoryview) -> None:
        self._wait()  # at most one block is alive beside the one that is being made
        self._hashed = self._thread.submit(self._digest.update, data)
        self._file.write(data)
        self.size += data.nbytes

    def _wait(self) -> None:
        if self._hashed is not None:
            self._hashed.result()
