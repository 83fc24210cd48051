"""What the measurements of ``make bench`` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shapes import Plan

from stc_export.pipeline.bench.record import (
    SCHEMA,
    BenchRecord,
    command_line,
    describe_bundle,
    read_environment,
)
from stc_export.pipeline.bench.series import Measured
from stc_export.pipeline.types import BenchResult
from stc_export.spec.manifest import Manifest, read_manifest
from stc_export.spec.progress import Progress
from stc_runtime.backends.base import Backend
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.model import Model


@dataclass(frozen=True)
class Bench:
    """What is measured, and how much of it.

    Attributes:
        plan: Sizes.
        bundle: The bundle of that plan.
        opened: The bundle that is opened in fresh processes.
        threads: Threads inside an operator; ``None``: one per core.
        progress: Receiver of progress.
    """

    plan: Plan
    bundle: Path
    opened: Path
    threads: int | None
    progress: Progress

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return read_manifest(self.bundle)

    def backend(self) -> OrtBackend:
        """What executes the graphs."""
        return OrtBackend(threads=self.threads)

    def model(self, backend: Backend | None = None) -> Model:
        """Open the bundle anew: its graphs are closed when the model is dropped."""
        return Model.open(self.bundle, backend or self.backend())


def joined(parts: list[Measured]) -> Measured:
    """Return several measurements as one."""
    return Measured(
        tuple(series for part in parts for series in part.series),
        tuple(row for part in parts for row in part.rows),
        tuple(note for part in parts for note in part.notes),
    )


def record(bench: Bench, measured: Measured, load_before: float | None) -> BenchRecord:
    """Return a result with its evidence."""
    manifest = bench.manifest
    return BenchRecord(
        schema=SCHEMA,
        command=command_line(),
        bundle=describe_bundle(bench.bundle, manifest),
        video="generated",
        environment=read_environment(bench.threads, load_before),
        series=measured.series,
        result=BenchResult(bench.bundle.name, manifest.target, measured.rows, measured.notes),
    )
