from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stc_export.cli.bench import result_text
from stc_export.cli.main import main
from stc_export.pipeline.types import BenchRequest, BenchResult, BenchRow
from tests.stc_export.cli.results import BENCHED

if TYPE_CHECKING:
    from tests.stc_export.cli.results import FakePipeline


def test_bench_flags_become_the_request(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--frames", "8", "--repeats", "5", "--threads", "2", "--out", "r.json"]
    assert main(["bench", "demo.stc", "v.mp4", *flags]) == 0
    assert pipeline.requests == [BenchRequest(Path("demo.stc"), Path("v.mp4"), 8, 5, 2, Path("r.json"))]
    assert "written: r.json" in capsys.readouterr().err


def test_bench_without_flags_has_the_defaults_of_the_request(pipeline: FakePipeline) -> None:
    assert main(["bench", "demo.stc"]) == 0
    assert pipeline.requests == [BenchRequest(Path("demo.stc"))]


def test_bench_json_has_the_rows(pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "demo.stc", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert rows[0] == {
        "stage": "vit 25 %",
        "baseline": "vit full",
        "ratio": 2.5,
        "bound": 3.1,
        "p50_ms": 4.0,
        "baseline_p50_ms": 10.0,
        "n": 30,
    }


def test_bench_text_shows_ratio_next_to_its_bound() -> None:
    assert result_text(BENCHED).splitlines()[2:] == [
        "stage     p50 ms  baseline  p50 ms  faster  bound   n",
        "vit 25 %    4.00  vit full   10.00   2.50x  3.10x  30",
    ]


def test_bench_text_unknown_bound_is_a_dash() -> None:
    row = BenchRow("decode", "decode", 1.0, None, 1.0, 1.0, 3)
    assert result_text(BenchResult("b", "cpu", (row,))).split()[-2:] == ["-", "3"]


@pytest.mark.parametrize("flag", ["--frames", "--repeats", "--threads"])
def test_bench_value_out_of_range_exits_2(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["bench", "demo.stc", flag, "0"]) == 2
    assert f"error: {flag} is 0" in capsys.readouterr().err
