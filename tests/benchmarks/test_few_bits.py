from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stc_export.pipeline.bench.record import BenchRecord
from stc_export.spec import codec

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module; its neighbours are imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("few_bits")
        for name in ("few_bits", "bench", "decode", "genai", "make_checkpoint", "shapes", "tables"):
            patch.delitem(sys.modules, name, raising=False)


def test_few_bits_answers_with_both_bundles_in_turns(
    script: Any, even_bundle_int4: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bundles that are there are not built again."""
    for name in ("int4", "int4-head"):
        (tmp_path / f"quick-{name}.stc").symlink_to(even_bundle_int4)
    (tmp_path / "quick-fp32.stc").symlink_to(tiny_bundle)
    arguments = ["--shape", "quick", "--tokens", "4", "--threads", "1", "--results", str(tmp_path), str(tmp_path)]
    assert script.main(arguments) == 0
    record = codec.from_json(BenchRecord, (tmp_path / "few-bits-quick.json").read_text(encoding="utf-8"))
    assert [(series.name, len(series.samples_ms)) for series in record.series] == [
        ("decode, 256 tokens before, int4-head", 4),
        ("decode, 256 tokens before, int4", 4),
        ("decode, 256 tokens before, fp32", 4),
    ]
    assert [row.baseline for row in record.result.rows] == ["decode, 256 tokens before, fp32"] * 2
    assert all(row.ratio == pytest.approx(row.baseline_p50_ms / row.p50_ms, rel=1e-2) for row in record.result.rows)
    assert "few-bits-quick.json" in capsys.readouterr().out


def test_memory_in_few_bits_is_compared_behind_prompts_of_each_length_once(
    script: Any, tiny_kv_bundle: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "quick-kv-int8.stc").symlink_to(tiny_kv_bundle)
    (tmp_path / "quick-fp32.stc").symlink_to(tiny_bundle)
    arguments = ["--of", "memory", "--shape", "quick", "--tokens", "4", "--threads", "1", "--results", str(tmp_path)]
    assert script.main([*arguments, str(tmp_path)]) == 0
    record = codec.from_json(BenchRecord, (tmp_path / "kv-int8-quick.json").read_text(encoding="utf-8"))
    assert [series.name for series in record.series] == [
        "decode, 256 tokens before, kv-int8",
        "decode, 256 tokens before, fp32",
    ]
    assert len(record.result.rows) == 1
