from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stc_export.pipeline.bench.record import BenchRecord
from stc_export.pipeline.bench.stages import VitPasses
from stc_export.pipeline.bench.video import read_scene
from stc_export.spec import codec
from stc_export.spec.policy import Policy
from stc_export.spec.progress import Silent
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.bundle import Bundle
from stc_runtime.encoder import selection_feeds
from stc_runtime.gate import Decision
from stc_runtime.model import Model
from tests.checkpoints import tiny_dims

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def run() -> Iterator[Any]:
    """The script as a module; its neighbours are imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("run")
        for name in {path.stem for path in SCRIPTS.glob("*.py")} & sys.modules.keys():
            patch.delitem(sys.modules, name)


@pytest.fixture
def sdpa_only(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiles takes longer than the tests, and OpenVINO is not a part of the environment."""
    encoders = sys.modules["encoders"]

    def absent(_bench: Any) -> Any:
        raise ModuleNotFoundError("No module named 'openvino'")

    others = {"transformers with SDPA": encoders.OTHERS["transformers with SDPA"], "OpenVINO": absent}
    monkeypatch.setattr(encoders, "OTHERS", others)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: the dense graph is written next to a bundle's graphs, and other tests share the original."""
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("bench") / "tiny.stc"))


@pytest.mark.usefixtures("sdpa_only")
def test_run_quick_writes_results_that_can_be_read(
    run: Any, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--quick", "--bundle", str(bundle), "--results", str(tmp_path), "--threads", "1"]) == 0
    records = {file.name: codec.from_json(BenchRecord, file.read_text(encoding="utf-8")) for file in tmp_path.iterdir()}
    assert set(records) == {f"{part}-quick-1-threads.json" for part in run.PARTS}
    assert set(run.PARTS) == set(sys.modules["tables"].TITLES)
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
        everything = selection_feeds("gate", Decision.overwriting("full", np.arange(25, dtype=np.int64)))
        feeds = {"patch_embeddings": embeddings, **everything, **zeros}
        expected = full.run(feeds, {})["features"]
        assert np.abs(dense - expected).max() <= 1e-4 * np.abs(expected).max()


def a_bench(run: Any, bundle: Path) -> Any:
    return run.Bench(run.QUICK, bundle, bundle, 1, Silent())


@pytest.mark.usefixtures("sdpa_only")
def test_encoders_compute_the_same_and_missing_ones_are_named(run: Any, bundle: Path) -> None:
    measured = run.measure_encoders(a_bench(run, bundle))
    assert [(row.stage, row.baseline, row.bound) for row in measured.rows] == [("dense", "transformers with SDPA", 1.0)]
    assert measured.notes[1] == "OpenVINO was left out: ModuleNotFoundError: No module named 'openvino'"
    apart = float(measured.notes[0].split(" differ by ")[1].split()[0])
    assert 0 < apart <= 1e-4


def test_decoding_is_that_of_transformers(run: Any, bundle: Path) -> None:
    """A prompt that fills the memory in several pieces, then two tokens of an answer."""
    bench, prompt = a_bench(run, bundle), tuple(range(5, 255))
    answer = sys.modules["decode"].Answer(bench, prompt, 2)
    language = sys.modules["original"].open_original(bundle, tiny_dims()).language_model
    said = list(prompt)
    for _ in range(3):
        hidden = language(input_ids=torch.tensor([said])).last_hidden_state[0, -1]
        expected = (language.embed_tokens.weight @ hidden).numpy()
        assert np.abs(answer.logits - expected).max() <= 1e-4 * np.abs(expected).max()
        said.append(int(expected.argmax()))
        answer.write()


def test_decoding_without_a_baseline_has_samples_and_says_so(
    run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["genai"], "installed", lambda: False)
    measured = run.measure_decode(a_bench(run, bundle))
    assert [(one.name, len(one.samples_ms)) for one in measured.series] == [("decode, 20 tokens before", 3)]
    assert (measured.rows, measured.notes) == ((), (sys.modules["decode"].MISSING,))


def test_tokens_take_turns_in_blocks_of_which_the_first_ones_are_dropped(run: Any) -> None:
    """25 of each: blocks of ten, ten and five, with three before each."""
    decode, order = sys.modules["decode"], list[str]()
    done: list[int] = []
    taken = decode.in_blocks([lambda: order.append("a"), lambda: order.append("b")], 25, done.append)
    assert [len(samples) for samples in taken] == [25, 25]
    assert "".join(order) == "a" * 13 + "b" * 13 + "a" * 13 + "b" * 13 + "a" * 8 + "b" * 8
    assert (done, decode.tokens_in_all(25)) == ([10, 10, 5], order.count("a")) == ([10, 10, 5], 34)


def test_decoding_against_a_baseline_takes_turns(run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genai = sys.modules["genai"]
    written = []
    other = SimpleNamespace(read=lambda _prompt: np.ones(512, np.float32), write=lambda: written.append(1))
    monkeypatch.setattr(genai, "installed", lambda: True)
    monkeypatch.setattr(genai, "exported", lambda _bundle, _dims: bundle)
    monkeypatch.setattr(genai, "GenaiLlm", lambda _folder, room, _threads: other if room == 20 + 6 + 1 else None)
    measured = run.measure_decode(a_bench(run, bundle))
    assert len(written) == 3 + 3
    (row,) = measured.rows
    assert (row.stage, row.baseline, row.bound, row.n) == (
        "decode, 20 tokens before",
        "onnxruntime-genai, 20 tokens before",
        1.0,
        3,
    )


def test_time_of_a_frame_is_that_of_its_parts(run: Any, bundle: Path) -> None:
    measured = run.measure_host(a_bench(run, bundle))
    series = {one.name.removesuffix(" per frame"): one for one in measured.series}
    parts = ("cacher_gate", "vit", "pruner", "llm", "host")
    for index, whole in enumerate(series["whole"].samples_ms):
        assert sum(series[name].samples_ms[index] for name in parts) == pytest.approx(whole)
    assert all(value > 0 for name in parts for value in series[name].samples_ms if name in ("cacher_gate", "host"))
    assert len(series["whole"].samples_ms) == 2 * 3
    rows = {row.stage: row for row in measured.rows}
    overhead = rows["gate + pruner + host per frame"]
    assert overhead.p50_ms == pytest.approx(series["gate + pruner + host"].p50_ms, abs=1e-4)
    assert overhead.baseline == "whole per frame"


def test_start_of_a_process_is_measured_with_and_without_the_cache(run: Any, bundle: Path) -> None:
    measured = run.measure_startup(a_bench(run, bundle))
    assert [(row.stage, row.baseline, row.n) for row in measured.rows] == [
        ("import, cold", "import, warm", 1),
        ("open, cold", "open, warm", 1),
    ]
    assert min(value for one in measured.series for value in one.samples_ms) > 0
