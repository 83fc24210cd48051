"""How a video is named, and how long one may be silent: for the command line, which loads no numpy to parse flags."""

from __future__ import annotations

from pathlib import Path

#: Longest wait of an address or a pipe for its next data, in seconds.
SILENCE_S = 10.0


def is_address(path: str | Path) -> bool:
    """Whether a video is named by an address on the network, such as ``rtsp://camera/stream``."""
    return isinstance(path, str) and "://" in path
