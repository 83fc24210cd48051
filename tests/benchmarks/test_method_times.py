from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stc_export.pipeline.bench.record import BenchRecord
from stc_export.pipeline.bench.series import Measured, Series
from stc_export.pipeline.types import BenchRow
from stc_export.spec import codec
from stc_runtime.bundle import Bundle

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module; its neighbours are imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("method_times")
        for name in ("method_times", "bench", "shapes", "tables"):
            patch.delitem(sys.modules, name)


def test_method_times_quick_measures_every_method_at_every_ratio(
    script: Any, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--bundle", str(tiny_bundle), "--results", str(tmp_path), "--threads", "1"]
    assert script.main(arguments) == 0
    record = codec.from_json(BenchRecord, (tmp_path / "method-times-quick.json").read_text(encoding="utf-8"))
    manifest = Bundle.open(tiny_bundle).manifest
    names = [series.name for series in record.series]
    # M = 9: half are 4, 0.3 of them 2.7, a quarter 2.25 and 0.15 of them 1.35, all rounded down.
    methods = {entry.method for entry in manifest.pruners} - {"none"}
    assert {f"{method}, {kept} of 9" for method in methods for kept in (4, 2, 1)} <= set(names)
    assert {"vit per_layer full", "vit gate 50 %", "none, 9 of 9"} <= set(names)
    assert [row.stage for row in record.result.rows if row.stage.startswith("prefill")] == [
        f"prefill {kept} of 9 tokens, 3 frames" for kept in (4, 2, 2, 1)
    ]
    printed = capsys.readouterr().out
    assert all(f"| {method} |" in printed for method in methods)


def test_method_times_cacher_table_has_the_mean_of_one_full_and_the_selective_passes(script: Any) -> None:
    times = {"full": 100.0, "10 %": 10.0, "25 %": 25.0, "50 %": 50.0}
    series = tuple(
        Series(f"vit {selection} {name}", 1.0, 0, 1, (ms,))
        for selection in ("per_layer", "gate")
        for name, ms in times.items()
    )
    table = script.cacher_table(Measured(series, ()))
    assert "| gate | 1 | all | 100 | 100 % |" in table
    assert "| per_layer | 2 | 25 % | 62 | 62 % |" in table  # (100 + 25) / 2
    assert "| per_layer | 4 | 10 % | 32 | 32 % |" in table  # (100 + 3 * 10) / 4


def test_method_times_pruner_table_has_each_method_and_the_prefill_beside_it(script: Any) -> None:
    series = tuple(
        Series(name, 1.0, 0, 1, (ms,))
        for name, ms in (
            ("none, 9 of 9", 1.0),
            ("evs, 4 of 9", 2.0),
            ("evs, 1 of 9", 1.5),
            ("prefill 4 of 9 tokens", 7.0),
        )
    )
    rows = tuple(
        BenchRow(f"prefill {kept} of 9 tokens, 3 frames", "prefill 9 tokens, 3 frames", 30.0 / ms, 2.0, ms, 30.0, 3)
        for kept, ms in ((4, 20.0), (1, 10.0))
    )
    assert script.pruner_table(Measured(series, rows)).splitlines() == [
        "| method | 4 of 9, ms | 1 of 9, ms |",
        "|---|---:|---:|",
        "| none | 1.0 | 1.0 |",
        "| evs | 2.0 | 1.5 |",
        "| prefill of them | 20.0 | 10.0 |",
        "| prefill of all, beside it | 30.0 | 30.0 |",
    ]
