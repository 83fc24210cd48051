"""Counts and times of a stream: exact as long as all times are kept, and a fair sample of more."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.pipeline import tally
from stc_export.pipeline.types import FrameCounts, Latency, TokenCounts
from stc_export.spec.report import FrameReport

FULL = FrameReport(0.0, "full", 9, (), 0.0, 0.0, 9, 3, (0, 1, 2), 0, 1.0, 20.0, 2.0, 5.0)
SELECTIVE = replace(FULL, mode="selective", vit_ms=6.0, recomputed=2)
SKIP = replace(FULL, mode="skip", recomputed=0, kept_tokens=0, kept_indices=(), vit_ms=0.0, pruner_ms=0.0, prefill_ms=0)
NONE_KEPT = replace(SELECTIVE, kept_tokens=0, kept_indices=(), prefill_ms=0.0)


def test_frames_tokens_and_stages_are_counted_by_mode() -> None:
    found = tally.Tally()
    for report in (FULL, SELECTIVE, SKIP, SELECTIVE, NONE_KEPT):
        found.frame(report)
    assert found.frames == FrameCounts(total=5, full=1, selective=3, skip=1)
    assert found.tokens == TokenCounts(visual_before=45, visual_kept=9)
    times = found.latencies
    assert (times.gate.n, times.vit_full.n, times.vit_selective.n) == (5, 1, 3)
    assert (times.pruner.n, times.prefill.n, times.decode.n) == (4, 3, 0)
    assert times.vit_full == Latency(20.0, 20.0, 1)
    assert times.prefill.p50 == 5.0


@given(st.lists(st.floats(0, 1e6, width=32), min_size=2, max_size=60))
def test_percentiles_of_few_times_are_those_of_all(values: list[float]) -> None:
    times = tally.Times()
    for value in values:
        times.add(value)
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    assert times.latency == Latency(pytest.approx(cuts[9], abs=1e-3), pytest.approx(cuts[18], abs=1e-3), len(values))


def test_of_many_times_a_fair_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ascending times, what is drawn must not favour the first or the last: four standard errors of a rank."""
    monkeypatch.setattr(tally, "MOST_TIMES", 1000)
    times = tally.Times()
    for value in range(20_000):
        times.add(float(value))
    found = times.latency
    assert found.n == 20_000
    assert len(times._kept) == 1000
    assert found.p50 / 20_000 == pytest.approx(0.50, abs=4 * (0.5 * 0.5 / 1000) ** 0.5)
    assert found.p95 / 20_000 == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 1000) ** 0.5)
