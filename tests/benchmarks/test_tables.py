"""The tables of docs/performance.md are those of the results, and say plainly what was missed or not measured."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stc_export.pipeline.types import BenchRow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("tables")
        for name in ("tables", "shapes"):
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def records(tables: Any) -> Any:
    return tables.read_results(tables.RESULTS)


def with_rows(record: Any, *rows: BenchRow) -> Any:
    return replace(record, result=replace(record.result, rows=rows))


def a_row(stage: str, ms: float, baseline_ms: float) -> BenchRow:
    return BenchRow(stage, "dense", baseline_ms / ms, 4.0, ms, baseline_ms, 7)


def test_page_has_the_tables_of_the_results(tables: Any, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_bytes(tables.PAGE.read_bytes())
    tables.main(["--page", str(page)])
    assert page.read_text() == tables.PAGE.read_text()


def test_text_outside_the_marks_stays(tables: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.START}former rows\n{tables.END}after\n")
    tables.write_tables(tmp_path, page)
    text = page.read_text()
    assert text.startswith(f"before\n{tables.START}")
    assert text.endswith(f"{tables.END}after\n")
    assert "former rows" not in text
    assert text.count("not measured") == len(tables.TARGETS)


@pytest.mark.parametrize(
    ("stage", "ms", "told"),
    [
        ("gate 25 %", 30.0, "| at most 0.30 | 0.30 | yes |"),
        ("gate 25 %", 38.0, "| at most 0.30 | 0.38 | **no** |"),
        ("gate 25 %, N = 2", 60.0, "| at least 33% | 40% | yes |"),
        ("gate 25 %, N = 4", 60.0, "| at least 50% | 40% | **no** |"),
        ("gate full", 103.0, "| at most 1.03 | 1.03 | yes |"),
    ],
)
def test_targets_are_told_from_the_rows(tables: Any, records: Any, stage: str, ms: float, told: str) -> None:
    name = "vit-llava-onevision-0.5b.json"
    text = tables.tables({name: with_rows(records[name], a_row(stage, ms, 100.0))})
    summary = text.partition("\n## ViT")[0]
    assert told in summary
    assert summary.count("not measured") == len(tables.TARGETS) - 1


def test_worst_of_several_rows_counts(tables: Any, records: Any) -> None:
    record = next(iter(records.values()))
    rows = (a_row("dense", 100.0, 90.0), a_row("dense", 100.0, 150.0))
    text = tables.tables({"encoders-llava-onevision-0.5b.json": with_rows(record, *rows)})
    assert "| at least 1.00 | 0.90 | **no** |" in text


def test_markdown_has_one_line_per_row(tables: Any) -> None:
    text = tables.markdown((BenchRow("gate 25 %", "dense", 3.2144, 4.0055, 912.34, 2932.6, 7),))
    assert text.splitlines()[2:] == ["| gate 25 % | 912.3 | dense | 2932.6 | 3.21x | 4.01x | 7 |"]
