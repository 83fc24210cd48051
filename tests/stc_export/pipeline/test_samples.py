"""Which frames of a stream are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stc_export.pipeline.samples import MOST_PIXELS, SampleKeeper, spread
from stc_export.spec.report import CacherMode, FrameReport

REPORT = FrameReport(0.0, "full", 4, (), 0.9, 0.1, 4, 1, (0,), 0, 1.0, 2.0, 3.0, 4.0)
MODES: list[CacherMode] = ["full", "selective", "skip"]


def keeper_of(modes: list[CacherMode], most: int = 48) -> SampleKeeper:
    """Frame n has time n and is n % 256 all over."""
    keeper = SampleKeeper(most)
    for number, mode in enumerate(modes):
        keeper.see(np.full((2, 2, 3), number % 256, np.uint8), replace(REPORT, time_s=float(number), mode=mode))
    return keeper


def times(keeper: SampleKeeper, count: int) -> list[float]:
    return [sample.report.time_s for sample in keeper.choose(count)]


def test_spread_of_frames_alike_is_even() -> None:
    assert spread(range(101), ["full"] * 101, 6) == [0, 20, 40, 60, 80, 100]
    assert spread(range(4), ["full"] * 4, 6) == [0, 1, 2, 3]


def test_spread_exchanges_the_nearest_frame_for_the_only_selective_one() -> None:
    modes: list[CacherMode] = ["skip"] * 101
    modes[0], modes[57] = "full", "selective"
    assert spread(range(101), modes, 6) == [0, 20, 40, 57, 80, 100]
    modes[57], modes[3] = "skip", "selective"
    assert spread(range(101), modes, 6) == [0, 3, 40, 60, 80, 100]  # not the full one, although it is nearer


@given(st.lists(st.sampled_from(MODES), min_size=1, max_size=60), st.integers(2, 8))
def test_spread_has_a_full_and_a_selective_frame_whenever_there_are(modes: list[CacherMode], count: int) -> None:
    chosen = spread(range(len(modes)), modes, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(modes))
    shown = {modes[place] for place in chosen}
    assert {mode for mode in ("full", "selective") if mode in modes} <= shown


def test_keeper_of_a_long_stream_is_small_even_and_has_the_rare_frame() -> None:
    modes: list[CacherMode] = ["full"] * 5000
    modes[3333] = "selective"
    keeper = keeper_of(modes)
    assert len(keeper.choose(10_000)) <= 48 + 2
    found = times(keeper, 6)
    assert 3333.0 in found
    assert len(found) == 6
    gaps = np.diff([time for time in found if time != 3333.0])
    assert found[0] == 0
    assert found[-1] > 4800
    assert gaps.max() < 2200  # one of the even ones, 1,000 apart, made room


def test_keeper_of_a_short_stream_has_all_frames_in_order() -> None:
    keeper = keeper_of(["full", "skip", "selective", "skip"])
    assert times(keeper, 6) == [0, 1, 2, 3]
    assert [int(sample.frame[0, 0, 0]) for sample in keeper.choose(6)] == [0, 1, 2, 3]


@given(st.lists(st.sampled_from(MODES), min_size=1, max_size=300), st.integers(2, 12))
def test_keeper_never_holds_more_than_it_may_and_shows_the_modes(modes: list[CacherMode], most: int) -> None:
    keeper = keeper_of(modes, most)
    assert len(keeper.choose(10_000)) <= most + len(set(modes))
    shown = {sample.report.mode for sample in keeper.choose(6)}
    assert set(modes) & {"full", "selective"} <= shown


def test_keeper_copies_frames_and_reduces_large_ones() -> None:
    keeper = SampleKeeper()
    small, large = np.zeros((6, 4, 3), np.uint8), np.zeros((1080, 1920, 3), np.uint8)
    large[:, 960:] = 200
    for frame in (small, large):
        keeper.see(frame, REPORT)
    small[:] = 9
    first, second = keeper.choose(6)
    assert not first.frame.any()
    assert second.frame.shape == (MOST_PIXELS * 9 // 16, MOST_PIXELS, 3)
    assert [second.frame[100, x].tolist() for x in (50, -50)] == [[0] * 3, [200] * 3]
