"""The flags of ``calibrate`` as they were typed; each mode takes those that it knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Flags:
    """What was typed.

    Attributes:
        bundle: Path of the bundle.
        data: Video, or folder with videos or with the files of a task.
        budget: Text ``NAME=VALUE``.
        sensitivity: Measure what rounding each layer costs.
        precision: How it rounds, as ``build`` takes it.
        task: Name of a task.
        minutes: Most minutes that it takes.
        fps: Frames to take per second of videos.
        ask: Questions in place of the task's own.
        limit: Only so many videos or clips.
        threads: Threads of the backend.
        out: File for the policy, in place of the bundle.
        as_json: Print one JSON document.
    """

    bundle: Path
    data: Path | None
    budget: str | None
    sensitivity: bool
    precision: str
    task: str
    minutes: float | None
    fps: float | None
    ask: tuple[str, ...]
    limit: int | None
    threads: int | None
    out: Path | None
    as_json: bool
