"""Request and result of ``calibrate --budget``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stc_export.spec.tuning import TuningRecord


@dataclass(frozen=True)
class TuneRequest:
    """What was asked for.

    Attributes:
        bundle: Path of the bundle.
        budget: Text ``NAME=VALUE``.
        data: Video, or folder with videos or with the files of a task.
        task: Name of a task.
        minutes: Most minutes that it takes; ``None``: as many as it needs.
        fps: Frames to take per second of videos; ``None``: the task's own choice.
        ask: Questions in place of the task's own.
        limit: Only so many videos or clips; ``None``: all.
        threads: Threads of the backend; ``None``: its own choice.
        out: File for the policy; ``None``: inside the bundle.
    """

    bundle: Path
    budget: str
    data: Path | None = None
    task: str = "fidelity"
    minutes: float | None = None
    fps: float | None = None
    ask: tuple[str, ...] = ()
    limit: int | None = None
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Place:
    """Where everything goes.

    Attributes:
        policy: File of the policy.
        record: File of the evidence.
        picture: File of the plot.
        rows: Folder of what was watched.
    """

    policy: Path
    record: Path
    picture: Path
    rows: Path


@dataclass(frozen=True)
class TuneResult:
    """What was found.

    Attributes:
        record: The evidence.
        place: Where it was written, with the policy; if the budget was not met, only ``rows`` is there.
        trained: False: the weights are random.
    """

    record: TuningRecord
    place: Place
    trained: bool
