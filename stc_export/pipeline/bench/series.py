"""Samples of a measurement, taken in turns, and what is made of them: medians, ratios, bounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stc_export.pipeline.types import BenchRow

#: Does something for the i-th time and returns the milliseconds of the part that counts.
Step = Callable[[int], float]


@dataclass(frozen=True)
class Series:
    """Raw samples of one thing.

    Attributes:
        name: What was measured.
        macs: Multiply-accumulates of one value (see :mod:`stc_export.pipeline.operations`); 0: it is other work.
        warmup: Samples that were taken before and dropped.
        group: Consecutive samples that make one value, their mean: 1, or the frames of a pass over a stream.
        samples_ms: All samples in the order taken, in milliseconds.
    """

    name: str
    macs: float
    warmup: int
    group: int
    samples_ms: tuple[float, ...]

    @property
    def values_ms(self) -> tuple[float, ...]:
        """Mean of each group."""
        starts = range(0, len(self.samples_ms), self.group)
        return tuple(statistics.fmean(self.samples_ms[start : start + self.group]) for start in starts)

    @property
    def p50_ms(self) -> float:
        """Median of the values."""
        return statistics.median(self.values_ms)


@dataclass(frozen=True)
class Measured:
    """What one stage of a benchmark gave: raw series, rows, and remarks that a reader of the rows needs."""

    series: tuple[Series, ...]
    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...] = ()


def interleaved(
    steps: Sequence[Step], warmup: int, count: int, advance: Callable[[int], None]
) -> list[tuple[float, ...]]:
    """Take samples in turns, A B A B, so that a drifting clock or a busy machine meets all alike.

    Args:
        steps: What is measured; each is called with 0, 1, 2, ... and after the warm-up from 0 again.
        warmup: Rounds whose samples are dropped.
        count: Rounds that count.
        advance: Called with 1 after each round that counts.

    Returns:
        Samples of each step in milliseconds.
    """
    samples: list[list[float]] = [[] for _ in steps]
    for index in range(warmup):
        for step in steps:
            step(index)
    for index in range(count):
        for taken, step in zip(samples, steps, strict=True):
            taken.append(round(step(index), 4))
        advance(1)
    return [tuple(taken) for taken in samples]


def timed_ms(work: Callable[[], object]) -> float:
    """Run something and return its milliseconds."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def compare(series: Series, baseline: Series) -> BenchRow:
    """Return a series against its baseline; the bound is the ratio of their operations, if there are any."""
    return BenchRow(
        stage=series.name,
        baseline=baseline.name,
        ratio=round(baseline.p50_ms / series.p50_ms, 4),
        bound=round(baseline.macs / series.macs, 4) if series.macs else None,
        p50_ms=round(series.p50_ms, 4),
        baseline_p50_ms=round(baseline.p50_ms, 4),
        n=len(series.values_ms),
    )


def compare_interval(interval: int, full: Series, selective: Series, baseline: Series) -> BenchRow:
    """Return the mean of one full and N - 1 selective frames against the baseline, computed from their medians."""
    mean_ms = (full.p50_ms + (interval - 1) * selective.p50_ms) / interval
    mean_macs = (full.macs + (interval - 1) * selective.macs) / interval
    return BenchRow(
        stage=f"{selective.name}, N = {interval}",
        baseline=baseline.name,
        ratio=round(baseline.p50_ms / mean_ms, 4),
        bound=round(baseline.macs / mean_macs, 4),
        p50_ms=round(mean_ms, 4),
        baseline_p50_ms=round(baseline.p50_ms, 4),
        n=len(selective.values_ms),
    )
