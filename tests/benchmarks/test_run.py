from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stc_export.pipeline.bench.record import BenchRecord
from stc_export.pipeline.bench.stages import VitPasses
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.types import BenchRow
from stc_export.spec import codec
from stc_export.spec.policy import Policy
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.bundle import Bundle
from stc_runtime.model import Model
from tests.checkpoints import tiny_dims

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def run() -> Iterator[Any]:
    """The script as a module; its neighbours are imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("run")
        for name in ("run", "dense", "shapes"):
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: the dense graph is written next to a bundle's graphs, and other tests share the original."""
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bench") / "tiny.stc"))


def test_run_quick_writes_three_results_that_can_be_read(
    run: Any, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--quick", "--bundle", str(bundle), "--results", str(tmp_path), "--threads", "1"]) == 0
    records = {file.name: codec.from_json(BenchRecord, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()}
    assert set(records) == {f"{part}-quick-1-threads.json" for part in ("vit", "prefill", "stream")}
    printed = capsys.readouterr().out
    for name, record in records.items():
        assert name in printed
        assert all(f"| {row.stage} |" in printed for row in record.result.rows)
        assert all(one.samples_ms for one in record.series)
        assert record.environment.threads == 1
    assert Bundle.open(bundle).manifest.dims == records["vit-quick-1-threads.json"].bundle.dims


def test_run_quick_vit_rows_are_against_the_dense_encoder(run: Any, bundle: Path, tmp_path: Path) -> None:
    run.main(["--quick", "--bundle", str(bundle), "--results", str(tmp_path), "--only", "vit"])
    assert [file.name for file in tmp_path.iterdir()] == ["vit-quick.json"]
    record = codec.from_json(BenchRecord, (tmp_path / "vit-quick.json").read_text(encoding="utf-8"))
    rows = {row.stage: row for row in record.result.rows}
    # T = 25, R = 6; a token costs 10,816 and its key 1,024 (worked out in tests/stc_export/pipeline/test_bench.py).
    selective = 6 * 10_816 + 19 * 1_024
    assert rows["gate full"].bound == 1.0
    assert rows["gate 25 %"].bound == pytest.approx(25 / 6, abs=1e-4)
    assert rows["shared 25 %"].bound == pytest.approx(25 * 10_816 / selective, abs=1e-4)
    assert rows["per_layer 25 %, N = 2"].bound == pytest.approx(2 / (1 + selective / (25 * 10_816)), abs=1e-4)
    assert rows["dense, batches of 2"].baseline == "dense, one frame"


def test_dense_features_of_a_batch_are_those_of_the_full_pass(run: Any, bundle: Path) -> None:
    model = Model.open(bundle)
    passes = VitPasses(model, Policy(), "gate", read_scene(None, 4).frames)
    batch = np.stack(passes.embeddings)
    features = run.DenseVit(bundle, tiny_dims(), OrtBackend()).run(batch)
    full = model.engine("vit", "gate")
    for embeddings, dense in zip(batch, features, strict=True):
        zeros = {
            spec.name: np.zeros(spec.static_shape, spec.dtype)
            for spec in model.manifest.graph("vit", "gate").inputs
            if spec.name.endswith("_in")
        }
        feeds = {"patch_embeddings": embeddings, "indices": np.arange(25, dtype=np.int64), **zeros}
        expected = full.run(feeds, {})["features"]
        assert np.abs(dense - expected).max() <= 1e-4 * np.abs(expected).max()


def test_markdown_has_one_line_per_row(run: Any) -> None:
    text = run.markdown((BenchRow("gate 25 %", "dense", 3.2144, 4.0055, 912.34, 2932.6, 7),))
    assert text.splitlines()[2:] == ["| gate 25 % | 912.3 | dense | 2932.6 | 3.21x | 4.01x | 7 |"]
