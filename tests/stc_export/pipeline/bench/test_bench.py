from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stc_export.pipeline.bench import record as bench_record
from stc_export.pipeline.bench.record import BenchRecord, write_record
from stc_export.pipeline.bench.run import bench
from stc_export.pipeline.bench.series import Series, compare, compare_interval, interleaved
from stc_export.pipeline.bench.stages import measure_prefill, measure_stream
from stc_export.pipeline.bench.video import generated_frames, read_scene
from stc_export.pipeline.operations import frame_macs, llm_macs
from stc_export.pipeline.types import BenchRequest, BenchResult, BenchRow
from stc_export.spec import codec
from stc_export.spec.errors import BundleError, UsageError, VideoError
from stc_export.spec.policy import Policy, PrunerPolicy, named_policies
from stc_export.spec.progress import Silent
from stc_runtime.model import Model
from tests.checkpoints import tiny_dims
from tests.videos import write_moving_square

DIMS = tiny_dims()
Benched = tuple[BenchResult, BenchRecord]


@pytest.fixture(scope="module")
def benched(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Benched:
    """One run on the tiny bundle: T = 25, M = 9, K = 2."""
    out = tmp_path_factory.mktemp("bench") / "r.json"
    result = bench(BenchRequest(tiny_bundle, frames=3, repeats=2, threads=1, out=out), Silent())
    return result, codec.from_json(BenchRecord, out.read_text(encoding="utf-8"))


def rows_by_stage(result: BenchResult) -> dict[str, BenchRow]:
    return {row.stage: row for row in result.rows}


def test_bench_has_a_row_for_each_selection_ratio_and_interval_prefill_and_stream(benched: Benched) -> None:
    vit = ["10 %", "25 %", "50 %", "25 %, N = 2", "25 %, N = 4"]
    assert [(row.stage, row.baseline) for row in benched[0].rows] == [
        *((f"vit {one} {name}", f"vit {one} full") for one in ("gate", "per_layer", "shared") for name in vit),
        ("prefill 3 of 9 tokens, 3 frames", "prefill 9 tokens, 3 frames"),
        ("stream with the policy, 3 frames", "stream off, 3 frames"),
    ]


def test_bench_ratios_are_those_of_the_raw_samples(benched: Benched) -> None:
    result, record = benched
    assert record.result == result
    groups = {one.name: np.array(one.samples_ms).reshape(-1, one.group).mean(axis=1) for one in record.series}
    for row in result.rows:
        if ", N = " in row.stage:
            continue
        stage, baseline = np.median(groups[row.stage]), np.median(groups[row.baseline])
        assert row.p50_ms == pytest.approx(stage, abs=1e-3)
        assert row.ratio == pytest.approx(baseline / stage, rel=1e-3)
        assert row.n == len(groups[row.stage]) == len(groups[row.baseline])


def test_bench_bounds_of_the_vit_are_the_counts_worked_out_by_hand(benched: Benched) -> None:
    # C = 32, mlp 80, T = 25: a token costs 4 * 1024 + 2 * 25 * 32 + 2 * 32 * 80 = 10,816, its key 1,024. R = 6.
    rows = rows_by_stage(benched[0])
    assert rows["vit gate 25 %"].bound == pytest.approx(25 / 6, abs=1e-4)
    per_layer = 6 * 10_816 + 19 * 1_024
    assert rows["vit per_layer 25 %"].bound == pytest.approx(25 * 10_816 / per_layer, abs=1e-4)
    mean = (25 * 10_816 + 3 * per_layer) / 4
    assert rows["vit shared 25 %, N = 4"].bound == pytest.approx(25 * 10_816 / mean, abs=1e-4)


def test_bench_bound_of_prefill_counts_the_growing_past(benched: Benched, tiny_bundle: Path) -> None:
    sink = len(Model.open(tiny_bundle).manifest.prompt.before_video)
    kept, whole = (sum(llm_macs(DIMS.text, k, sink + i * k) for i in range(3)) for k in (3, 9))
    assert rows_by_stage(benched[0])["prefill 3 of 9 tokens, 3 frames"].bound == pytest.approx(whole / kept, abs=1e-4)


def test_bench_record_says_where_and_how_it_was_measured(benched: Benched, tiny_bundle: Path) -> None:
    record = benched[1]
    manifest = tiny_bundle / "manifest.json"
    assert record.bundle.manifest_sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert (record.bundle.dims, record.bundle.trained, record.video) == (DIMS, False, "generated")
    assert (record.environment.threads, record.environment.numpy) == (1, np.__version__)
    assert record.environment.cores >= 1
    assert all(len(one.samples_ms) == (4 if one.group == 1 else 6) and one.warmup == 2 for one in record.series)
    assert any("batched" in note for note in record.result.notes)


def test_bench_of_a_video_takes_its_frames_and_says_when_it_is_short(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_moving_square(tmp_path / "three seconds.mp4")
    scene = read_scene(video, 8)
    assert (scene.source, len(scene.frames)) == ("three seconds.mp4", 3)
    assert np.diff(scene.times_s) == pytest.approx(1.0, abs=0.2)


def test_bench_of_a_video_with_one_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="has 1 frame at one per second"):
        read_scene(write_moving_square(tmp_path / "v.mp4"), 1)


def test_bench_into_a_missing_folder_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    request = BenchRequest(tmp_path / "none.stc", out=tmp_path / "no" / "r.json")
    with pytest.raises(UsageError, match=r'no" for the result is missing'):
        bench(request, Silent())
    with pytest.raises(UsageError, match="is a directory"):
        bench(replace(request, out=tmp_path), Silent())


def test_bench_of_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="There is no bundle"):
        bench(BenchRequest(tmp_path / "none.stc"), Silent())


def test_record_write_that_fails_keeps_the_older_result(
    benched: Benched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.json"
    out.write_text("older", encoding="utf-8")

    def fails(record: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_record.codec, "to_json", fails)
    with pytest.raises(KeyboardInterrupt):
        write_record(benched[1], out)
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert out.read_text(encoding="utf-8") == "older"


def test_stream_of_the_paper_policy_is_bounded_by_its_full_and_selective_frames(tiny_bundle: Path) -> None:
    model = Model.open(tiny_bundle)
    sink = len(model.manifest.prompt.before_video)
    measured = measure_stream(model, named_policies()["paper"], "paper", read_scene(None, 4), 1, Silent())
    assert measured.notes == ("stream paper: 2 full, 2 selective, 0 skip frames (generated video)",)
    paper = sum(frame_macs(DIMS, "per_layer", 25 if i % 2 == 0 else 6, 2, sink + 2 * i) for i in range(4))
    off = sum(frame_macs(DIMS, "per_layer", 25, 9, sink + 9 * i) for i in range(4))
    assert measured.rows[0].bound == pytest.approx(off / paper, abs=1e-4)


def test_prefill_of_a_policy_that_keeps_all_is_a_note(tiny_bundle: Path) -> None:
    keeps_all = Policy(pruner=PrunerPolicy(method="none", keep=1.0))
    measured = measure_prefill(Model.open(tiny_bundle), keeps_all, 2, 1, Silent())
    assert (measured.rows, measured.series) == ((), ())
    assert measured.notes == ("prefill was not compared: the policy keeps all visual tokens",)


def test_interleaved_takes_turns_and_drops_the_warm_up() -> None:
    calls: list[tuple[str, int]] = []

    def step(name: str, offset: float) -> Callable[[int], float]:
        def run(index: int) -> float:
            calls.append((name, index))
            return offset + len(calls)

        return run

    advanced: list[int] = []
    samples = interleaved([step("a", 100), step("b", 200)], 1, 3, advanced.append)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert samples == [(103, 105, 107), (204, 206, 208)]
    assert advanced == [1, 1, 1]


def test_series_of_passes_has_one_value_per_pass() -> None:
    series = Series("stream", 10.0, 0, 2, (1.0, 3.0, 5.0, 7.0, 30.0, 50.0))
    assert series.values_ms == (2.0, 6.0, 40.0)
    assert series.p50_ms == 6.0


def test_compare_gives_ratio_of_medians_and_bound_of_operations() -> None:
    fast, slow = Series("f", 25.0, 0, 1, (1.0, 2.0, 9.0)), Series("s", 100.0, 0, 1, (6.0, 7.0, 8.0))
    assert compare(fast, slow) == BenchRow("f", "s", 3.5, 4.0, 2.0, 7.0, 3)
    # One full and three selective frames: (7 + 3 * 2) / 4 ms and (100 + 3 * 25) / 4 operations.
    assert compare_interval(4, slow, fast, slow) == BenchRow(
        "f, N = 4", "s", round(28 / 13, 4), round(400 / 175, 4), 3.25, 7.0, 3
    )


def test_generated_frames_are_the_same_each_time_move_and_have_noise() -> None:
    first, second = (list(generated_frames(2)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (360, 640, 3)
    corner = np.abs(first[0][300:, 500:].astype(int) - first[1][300:, 500:])
    # The difference of two normal values of deviation 2 has deviation 2.83, and 2 / sqrt(pi) = 1.128 of 2 as its mean.
    assert corner.mean() == pytest.approx(2.26, abs=0.05)
    moved = np.abs(first[0][:96, :96].astype(int) - first[1][:96, :96])
    assert moved.mean() > 20


def test_bench_record_is_json_with_units_in_its_names(benched: Benched) -> None:
    series = json.loads(codec.to_json(benched[1]))["series"][0]
    assert set(series) == {"name", "macs", "warmup", "group", "samples_ms"}
    assert statistics.median(series["samples_ms"]) > 0
