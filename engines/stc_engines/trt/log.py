"""What TensorRT says while it builds, loads or runs."""

from __future__ import annotations

from typing import Any


def make_log(trt: Any) -> Any:
    """Return a logger of the module ``trt``, whose ``errors`` are the messages of errors so far, each on one line.

    The class derives from one of the module, so that it can only be made once that is there.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()
