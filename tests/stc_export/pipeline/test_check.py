"""The parity check: which layers of which model, and a sample of them for a large one."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stc_export.demo.checkpoint import CheckpointOptions, write_checkpoint
from stc_export.exporter.graphs import graph_entry
from stc_export.exporter.journal import journal_of
from stc_export.exporter.trace import trace
from stc_export.exporter.weights import StoredTensor, WeightRecipe, layout, write_weights
from stc_export.families.base import LayerSample
from stc_export.families.llava_onevision.model import LlavaOnevision
from stc_export.pipeline import check as module
from stc_export.pipeline.check import _sampled_steps, check_parity, layer_sample, read_weight, run_layers
from stc_export.pipeline.estimate import stored_files
from stc_export.spec.calibration import LayerStep
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.manifest import GraphEntry, GraphParity
from stc_export.spec.progress import Silent
from stc_runtime.goldens import Goldens
from tests.checkpoints import tiny_dims
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from stc_export.pipeline.plan import Prepared

GIB2 = 2 * 1024**3
SO400M = VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26)
QWEN_05B = TextDims(896, 4864, 14, 2, 64, 24, 152000, 32768, 1e6)
QWEN_7B = TextDims(3584, 18944, 28, 4, 128, 28, 152128, 32768, 1e6)


@pytest.mark.parametrize(
    ("text", "layers", "outputs"),
    [(QWEN_05B, tuple(range(24)), 152000), (QWEN_7B, (0, 14, 27), 2**28 // (4 * 3584))],
    ids=["0.5B", "7B"],
)
def test_published_models_are_checked_whole_or_by_first_middle_and_last_layer(
    text: TextDims, layers: tuple[int, ...], outputs: int
) -> None:
    """SigLIP so400m has 1.6 GB of float32, the 0.5B decoder 1.4 and 0.5 for its outputs, the 7B one 26 and 2.2 GB."""
    assert layer_sample(ModelDims(SO400M, text), GIB2) == LayerSample(tuple(range(26)), layers, outputs)


@pytest.mark.parametrize(
    ("layers", "sample"), [(1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (4, (0, 2, 3)), (5, (0, 2, 4)), (26, (0, 13, 25))]
)
def test_sample_is_first_middle_and_last(layers: int, sample: tuple[int, ...]) -> None:
    dims = tiny_dims()
    dims = ModelDims(replace(dims.vision, layers=layers), replace(dims.text, layers=layers))
    assert layer_sample(dims, 0) == LayerSample(sample, sample, 1)


def test_limit_is_the_float32_size_of_each_part() -> None:
    """Per ViT layer 32 x (4 x 32 + 2 x 80), per decoder layer 48 x (2 x 64 + 2 x 32 + 3 x 112) weights."""
    dims = ModelDims(replace(tiny_dims().vision, layers=9), replace(tiny_dims().text, layers=9))
    vit, llm = 9 * 32 * 288 * 4, 9 * 48 * 528 * 4
    whole, part = tuple(range(9)), (0, 4, 8)
    assert layer_sample(dims, vit) == LayerSample(whole, part, 512)
    assert layer_sample(dims, vit - 1) == LayerSample(part, part, 512)
    assert layer_sample(dims, llm) == LayerSample(whole, whole, 512)


def test_output_matrix_above_half_of_the_limit_is_cut_to_an_eighth() -> None:
    """512 rows of 48 float32 are 98,304 bytes."""
    assert layer_sample(tiny_dims(), 2 * 98_304).outputs == 512
    assert layer_sample(tiny_dims(), 2 * 98_304 - 1).outputs == 127


@pytest.mark.parametrize(
    ("graph", "text"),
    [
        ("graphs/vit.gate.onnx", "sample 0, 2, 4 of 5"),
        ("graphs/llm.onnx", "all 2"),
        ("graphs/cacher_gate.onnx", "whole graph"),
        ("graphs/pruner.none.onnx", "whole graph"),
    ],
)
def test_report_says_which_layers_ran(graph: str, text: str) -> None:
    dims = ModelDims(replace(tiny_dims().vision, layers=5), tiny_dims().text)
    found = run_layers(graph, LayerSample((0, 2, 4), (0, 1), 512), dims)
    assert (found.text, found.all) == (text, not text.startswith("sample"))


def test_report_says_how_many_outputs_ran() -> None:
    found = run_layers("graphs/llm.onnx", LayerSample((0, 1, 2), (0, 1), 100), tiny_dims())
    assert (found.text, found.all) == ("all 2, 100 of 512 outputs", False)


def test_read_weight_maps_a_tensor_at_its_place_as_it_is_stored(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    (tmp_path / "a.weights").write_bytes(bytes(10) + values.tobytes() + bytes(5))
    stored = {"a.weights": {"w": StoredTensor("a.weights", "float16", (2, 3), 10, 12)}}
    found = read_weight(tmp_path, stored, "a.weights", "w")
    assert isinstance(found, np.memmap)
    assert (found.dtype, found.flags.writeable) == (np.float16, False)
    np.testing.assert_array_equal(found, values)


# --- the sampled path ------------------------------------------------------------------------------------------------


def written(checkpoint: Path, root: Path) -> Prepared:
    """Write the weight files of a checkpoint, and nothing else, to ``root/graphs``."""
    ready = quick.prepared(checkpoint, root / "x.stc")
    (root / "graphs").mkdir()
    for file, recipes in ready.split.weights.items():
        write_weights(ready.checkpoint, recipes, root / "graphs" / file, lambda _bytes: None)
        journal_of(root / "graphs" / file).unlink()
    return ready


def entries(ready: Prepared) -> tuple[GraphEntry, ...]:
    return tuple(graph_entry(g, g.file, (), ready.precisions.floats) for g in ready.split.graphs)


def digests(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "graphs").iterdir()}


def check(ready: Prepared, root: Path) -> dict[str, GraphParity]:
    reports = check_parity(ready, entries(ready), None, root, Silent()).parity
    return {f"{report.graph.removeprefix('graphs/')} {report.case}": report for report in reports}


@pytest.fixture(scope="module")
def deep_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five ViT layers, of which three are sampled: their graphs are those of the tiny model."""
    dims = tiny_dims()
    deep = ModelDims(replace(dims.vision, layers=5), dims.text)
    return write_checkpoint(tmp_path_factory.mktemp("deep") / "deep", deep, CheckpointOptions(seed=4))


@pytest.fixture
def deep(deep_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    quick.install(monkeypatch, tiny_bundle)
    monkeypatch.setattr(module, "layer_sample", lambda *_: LayerSample((0, 2, 4), (0, 1), 512))
    return written(deep_checkpoint, tmp_path)


def test_sampled_check_passes_says_so_and_leaves_no_graph(deep: Prepared, tmp_path: Path) -> None:
    before = digests(tmp_path)
    reports = check(deep, tmp_path)
    assert len(reports) == 25  # 2 of the gate, 2 of each vit and of llm, 1 of none and 2 of each other pruner
    assert all(report.passed for report in reports.values())
    assert reports["vit.gate.onnx full"].layers == "sample 0, 2, 4 of 5"
    assert reports["vit.gate.onnx full"].reference == "transformers"
    assert reports["llm.onnx decode"].layers == "all 2"
    goldens = Goldens.open(tmp_path).index
    assert goldens.without == ("graphs/vit.gate.onnx", "graphs/vit.per_layer.onnx", "graphs/vit.shared.onnx")
    assert {case.graph for case in goldens.cases}.isdisjoint(goldens.without)
    assert len(goldens.cases) == len(reports) - 6
    assert digests(tmp_path) == before
    assert set(before) == {"vision.weights", "projector.weights", "llm.weights", "embed.weights"}


@pytest.mark.parametrize(("layer", "seen"), [(0, True), (1, False), (2, True), (3, False), (4, True)])
def test_sampled_check_sees_a_fault_in_each_sampled_layer(
    deep: Prepared, tmp_path: Path, layer: int, seen: bool
) -> None:
    """And in no other: that is what the report says."""
    place = stored_files(deep.split)["vision.weights"][f"layers.{layer}.fc1.weight"]
    with (tmp_path / "graphs/vision.weights").open("r+b") as file:
        file.seek(place.offset)
        file.write(bytes(place.length))
    reports = check(deep, tmp_path)
    failed = {name for name, report in reports.items() if not report.passed}
    assert failed == (
        {f"vit.{selection}.onnx full" for selection in ("gate", "per_layer", "shared")} if seen else set()
    )


def test_sampled_check_that_is_interrupted_leaves_no_graph(
    deep: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(tmp_path)

    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    for name in ("compare", "trace"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                check(deep, tmp_path)
        assert digests(tmp_path) == before


def test_sampled_model_has_the_bytes_of_the_sampled_layers(deep: Prepared) -> None:
    stored = stored_files(deep.split)
    sampled = deep.model.sampled_weights(stored, LayerSample((0, 2, 4), (1,), 100))
    for new, old in enumerate((0, 2, 4)):
        for name in ("qvk.weight", "qv.weight", "k.bias", "norm1.weight"):
            assert sampled["vision.weights"][f"layers.{new}.{name}"] == stored["vision.weights"][f"layers.{old}.{name}"]
    assert sampled["llm.weights"]["layers.0.out.weight"] == stored["llm.weights"]["layers.1.out.weight"]
    assert not [name for names in sampled.values() for name in names if name.startswith("layers.3.")]
    assert "layers.1.out.weight" not in sampled["llm.weights"]
    assert sampled["vision.weights"]["position"] == stored["vision.weights"]["position"]
    assert sampled["embed.weights"]["head.weight"] == stored["embed.weights"]["head.weight"].rows(0, 100)
    rest = {name: place for name, place in stored["embed.weights"].items() if name != "head.weight"}
    assert {name: place for name, place in sampled["embed.weights"].items() if name != "head.weight"} == rest


def test_model_that_is_checked_whole_is_not_traced_again(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle / "graphs", tmp_path / "graphs")
    monkeypatch.setattr(module, "trace", None)
    reports = check(quick.prepared(tiny_checkpoint, tmp_path / "x.stc"), tmp_path)
    assert all(report.passed for report in reports.values())
    assert {report.layers for report in reports.values()} == {"all 3", "all 2", "whole graph"}


@pytest.mark.slow
def test_sampled_check_with_traced_graphs_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dims = tiny_dims()
    deeper = ModelDims(replace(dims.vision, layers=5), replace(dims.text, layers=6))
    checkpoint = write_checkpoint(tmp_path / "deeper", deeper, CheckpointOptions(seed=5, tied=False))
    monkeypatch.setattr(module, "SAMPLE_ABOVE_BYTES", 40_000)
    ready = written(checkpoint, tmp_path)
    assert isinstance(ready.model, LlavaOnevision)
    reports = check(ready, tmp_path)
    assert module.trace is trace
    assert all(report.passed for report in reports.values())
    assert reports["llm.onnx prefill"].layers == "sample 0, 3, 5 of 6, 26 of 512 outputs"


def test_scales_of_sampled_layers_are_those_of_the_same_bytes() -> None:
    recipes = tuple(WeightRecipe(f"layers.{i}.fc1.weight", "float32", (4, 8), ("a",)) for i in range(3))
    whole = {"v": layout("v", recipes)}
    sampled = {"v": {"layers.0.fc1.weight": whole["v"]["layers.2.fc1.weight"]}}
    scales: Any = SimpleNamespace(steps=[LayerStep(f"layers.{i}.fc1.weight", 0.5 + i) for i in range(3)])
    assert _sampled_steps(scales, whole, sampled) == {"layers.0.fc1.weight": 2.5}
