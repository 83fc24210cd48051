"""Open what a video comes from: a file, a pipe, a camera of this machine, or an address on the network.

Nothing is waited for without an end: a pipe and an address have the same longest silence, at the start and later.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stc_export.spec.errors import MissingDependencyError, VideoError
from stc_export.spec.footage import is_address

if TYPE_CHECKING:
    from collections.abc import Callable

    _Opener = Callable[[Any, str | Path, float], Any]

#: Most pixels of a frame, 8192 x 8192. A picture of a few kilobytes can state a size that no memory holds.
MOST_PIXELS = 1 << 26
#: What a decoder has to be told, when the file is opened and again for the track that is read.
DECODER_OPTIONS = {"max_pixels": str(MOST_PIXELS)}


def import_av() -> Any:
    """Return the package PyAV.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError(
            'Reading a video needs the package "av", which is not installed.',
            'Run pip install "stc-export[video]".',
        ) from error
    return av


def open_source(av: Any, path: str | Path, silence_s: float) -> Any:
    """Return PyAV's container of a video.

    Args:
        av: The package PyAV.
        path: A file, a named pipe, or a camera (``/dev/video0``); an address if it is a string with ``://``.
        silence_s: Longest wait of an address or a pipe for its next data, in seconds.

    Raises:
        VideoError: There is no such thing, or no video comes out of it.
    """
    opener, fix = (_open_address, "Check the address and the network.") if is_address(path) else _opener(Path(path))
    try:
        return opener(av, path, silence_s)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f'Video "{path}" cannot be read as a video ({reason}).', fix) from error


def _opener(path: Path) -> tuple[_Opener, str]:
    """Return what opens a thing in the file system, and what to do if it does not."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise VideoError(f'Video "{path}" does not exist.', "Check the path and the current directory.") from error
    except OSError as error:  # a name that is too long, or a folder that may not be entered
        raise VideoError(
            f'Video "{path}" cannot be read ({error.strerror}).', "Check its name and permissions."
        ) from error
    if stat.S_ISDIR(found.st_mode):
        raise VideoError(f'Video "{path}" is a directory, expected a file.', "Name a video file inside it.")
    if stat.S_ISFIFO(found.st_mode):
        return _open_pipe, "Start the program that writes a video to it, for example as MPEG-TS."
    if stat.S_ISCHR(found.st_mode):
        return _open_camera, "Name a camera that no other program uses, for example /dev/video0."
    if found.st_size == 0:
        raise VideoError(f'Video "{path}" is empty (0 bytes).', "Copy or record it again.")
    return _open_file, "Play the file to see whether it is complete."


def _open(av: Any, source: Any, **options: Any) -> Any:
    # Titles in a foreign encoding must not stop a reader.
    return av.open(source, metadata_errors="replace", options=DECODER_OPTIONS, **options)


def _open_address(av: Any, path: str | Path, silence_s: float) -> Any:
    return _open(av, str(path), timeout=silence_s)


def _open_file(av: Any, path: str | Path, _: float) -> Any:
    return _open(av, f"file:{path}")  # without the prefix, a colon in the name would be taken for a protocol


def _open_camera(av: Any, path: str | Path, _: float) -> Any:
    return _open(av, str(path), format="v4l2")


def _open_pipe(av: Any, path: str | Path, silence_s: float) -> Any:
    # Opened to read without waiting, since nothing can interrupt a program that waits for another one to write.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ready, _, _ = select.select([number], [], [], silence_s)
        if not ready:
            raise TimeoutError(errno.ETIMEDOUT, f"no data for {silence_s:g} s")
        return _open(av, f"pipe:{number}", timeout=silence_s)
    finally:
        os.close(number)  # FFmpeg has its own
