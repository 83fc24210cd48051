"""Where the videos of a benchmark are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from stc_export.spec.errors import UsageError
from stc_export.validate.footage import PictureFolder, VideoFile
from stc_export.validate.types import TaskClip


def find_video(data: Path, names: Sequence[str]) -> Path:
    """Return the first of several places that exists; else the first, whose absence is told when it is read.

    Args:
        data: Folder that ``--data`` names; no place outside it is looked at.
        names: Places under it, the benchmark's own first.
    """
    paths = [data / ends_of(name)[0] for name in names]
    return next((path for path in paths if _is_there(path)), paths[0])


def ends_of(path: str) -> tuple[str, ...]:
    """Return the relative paths that a path of another machine may have here: itself, then without leading folders.

    Parts that would lead out of the folder are dropped.
    """
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "//", "..")]
    return tuple("/".join(parts[first:]) for first in range(len(parts))) or ("unnamed",)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def check_videos(data: Path, clips: Iterable[TaskClip]) -> None:
    """Check that there is any video; single ones that are missing are told as their turn comes.

    Raises:
        UsageError: There is none.
    """
    paths = list(dict.fromkeys(_paths(clips)))
    if paths and not any(map(_is_there, paths)):
        raise UsageError(
            f'None of the {len(paths)} videos of the benchmark is in "{data}"; the first would be "{paths[0]}".',
            "Unpack the benchmark's videos there; docs/validate.md has the folders. Nothing is downloaded.",
        )


def _paths(clips: Iterable[TaskClip]) -> Iterable[Path]:
    return (clip.footage.path for clip in clips if isinstance(clip.footage, (VideoFile, PictureFolder)))
