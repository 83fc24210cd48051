"""What a stream did, in memory that does not grow with its length: counts, and times of each stage."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

from stc_export.pipeline.types import FrameCounts, Latency, StageLatencies, TokenCounts
from stc_export.spec.report import CacherMode, FrameReport

#: Times of a stage that are kept: the 95th percentile of so many is within 0.5 points of the rank of all.
MOST_TIMES = 10_000


class Times:
    """Milliseconds of one stage: all of them, or of more than ``MOST_TIMES`` as many, drawn uniformly.

    Source: J. S. Vitter, Random sampling with a reservoir, ACM TOMS 11 (1985), algorithm R. The seed is fixed.
    """

    def __init__(self) -> None:
        self._kept, self._count = array("d"), 0
        self._dice = random.Random(0)  # noqa: S311 - a sample, not a secret

    def add(self, ms: float) -> None:
        """Take one more."""
        self._count += 1
        if len(self._kept) < MOST_TIMES:
            self._kept.append(ms)
            return
        place = self._dice.randrange(self._count)
        if place < MOST_TIMES:
            self._kept[place] = ms

    @property
    def latency(self) -> Latency:
        """Percentiles of those kept, and how many there were."""
        found = latency(self._kept)
        return Latency(found.p50, found.p95, self._count)


class Tally:
    """Counts frames and answers as they come."""

    def __init__(self) -> None:
        self.decode = Times()
        self._modes = Counter[CacherMode]()
        self._visual = self._kept = 0
        self._gate, self._pruner, self._prefill = Times(), Times(), Times()
        self._vit: dict[CacherMode, Times] = {"full": Times(), "selective": Times()}

    def frame(self, report: FrameReport) -> None:
        """Take the report of a frame."""
        self._modes[report.mode] += 1
        self._visual += report.visual_tokens
        self._kept += report.kept_tokens
        self._gate.add(report.gate_ms)
        if report.mode in self._vit:
            self._vit[report.mode].add(report.vit_ms)
            self._pruner.add(report.pruner_ms)
            if report.kept_tokens:
                self._prefill.add(report.prefill_ms)

    @property
    def frames(self) -> FrameCounts:
        """Frames by how they were encoded."""
        modes = self._modes
        return FrameCounts(modes.total(), modes["full"], modes["selective"], modes["skip"])

    @property
    def tokens(self) -> TokenCounts:
        """Visual tokens."""
        return TokenCounts(self._visual, self._kept)

    @property
    def latencies(self) -> StageLatencies:
        """Times of the stages; those of pruner and prefill without frames that skip them."""
        return StageLatencies(
            gate=self._gate.latency,
            vit_full=self._vit["full"].latency,
            vit_selective=self._vit["selective"].latency,
            pruner=self._pruner.latency,
            prefill=self._prefill.latency,
            decode=self.decode.latency,
        )


def latency(samples: Iterable[float]) -> Latency:
    """Return percentiles of samples in milliseconds; zeros without samples."""
    values = np.array(list(samples), np.float64)
    if not values.size:
        return Latency(0.0, 0.0, 0)
    p50, p95 = (round(float(v), 3) for v in np.percentile(values, [50, 95]))
    return Latency(p50, p95, int(values.size))
