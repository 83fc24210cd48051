"""A whole bundle whose ViT computes in int8 or fp8: scales from data, the record of it, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from stc_calib.data import CalibrationData, Clip, digest_data
from stc_engines import find_target
from stc_export.cli.inspect import result_text
from stc_export.pipeline.calibration import _show
from stc_export.pipeline.calibration_data import WORLD, CalibrationTask, find_task, world_data
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.precisions import read_precisions
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.calibration import RECORD_NAME, read_record
from stc_export.spec.errors import BundleError, UsageError
from stc_export.spec.manifest import manifest_to_text, read_manifest
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.bundle import Bundle
from stc_runtime.goldens import Goldens, run_goldens

if TYPE_CHECKING:
    from pathlib import Path

    from stc_calib.schemes import Arithmetic

#: Layers of a graph of the tiny model: three, and four or, where keys are projected apart, five in each.
LAYERS = {"gate": ("qvk", "out", "fc1", "fc2"), "per_layer": ("qv", "k", "out", "fc1", "fc2")}


@pytest.fixture(params=["int8", "fp8"])
def bundle(request: pytest.FixtureRequest) -> Path:
    """Both."""
    return request.getfixturevalue({"int8": "calibrated_bundle", "fp8": "calibrated_bundle_fp8"}[request.param])


def test_graphs_round_with_the_scales_of_the_record(bundle: Path) -> None:
    chosen = read_record(bundle).activations
    assert chosen is not None
    steps = {row.name: row.step for row in chosen.steps}
    assert set(steps) == {f"layers.{i}.{name}.weight" for i in range(3) for names in LAYERS.values() for name in names}
    for variant, names in LAYERS.items():
        graph = onnx.load(bundle / f"graphs/vit.{variant}.onnx", load_external_data=False).graph
        found = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith(".step")}
        expected = {f"layers.{i}.{name}.weight" for i in range(3) for name in names}
        assert found == {f"{name}.step": np.float16(steps[name]) for name in expected}
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("QuantizeLinear") == len(expected) == kinds.count("Gemm")


@pytest.mark.parametrize(
    ("built", "precision", "code"),
    [("calibrated_bundle", "int8", "INT8"), ("calibrated_bundle_fp8", "fp8", "FLOAT8E4M3FN")],
)
def test_parity_and_precision_are_those_of_the_vit(
    built: str, precision: str, code: str, request: pytest.FixtureRequest
) -> None:
    root: Path = request.getfixturevalue(built)
    manifest = read_manifest(root)
    assert {graph.role: graph.precision for graph in manifest.graphs} == {
        **dict.fromkeys(("cacher_gate", "pruner", "llm"), "fp16"),
        "vit": precision,
    }
    graph = onnx.load(root / "graphs/vit.gate.onnx", load_external_data=False).graph
    weights = {t.data_type for t in graph.initializer if t.name.endswith("fc1.weight")}
    assert weights == {onnx.TensorProto.DataType.Value(code)}
    rows = [row for case in manifest.parity if case.graph.startswith("graphs/vit.") for row in case.outputs]
    assert all(row.passed and row.tolerance == 0.2 for row in rows)
    assert not list((root / "graphs").glob("taps*"))


def test_record_tells_what_the_scales_were_chosen_from(calibrated_bundle: Path) -> None:
    result = inspect(calibrated_bundle)
    assert result.ok
    chosen = result.activations
    assert chosen is not None
    assert (chosen.arithmetic, chosen.frames, len(chosen.graphs)) == ("int8", 8, 3)
    assert chosen.full_passes >= 3
    assert chosen.selective_passes >= 3
    assert chosen.preprocess == result.manifest.preprocess
    assert f"{len(chosen.steps)} scales from {chosen.data}, 8 frames" in result_text(result)
    assert RECORD_NAME in {entry.path for entry in result.manifest.files}


def test_scales_for_another_graph_are_refused_when_a_bundle_is_opened(calibrated_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "other.stc"
    shutil.copytree(calibrated_bundle, root)
    manifest = read_manifest(root)
    other = replace(manifest, preprocess=replace(manifest.preprocess, resample="nearest"))
    (root / "manifest.json").write_text(manifest_to_text(other), encoding="utf-8")
    for look in (Bundle.open, inspect):
        with pytest.raises(BundleError, match="chosen for frames of 70 x 70 pixels"):
            look(root)


def test_goldens_hold_when_the_graphs_are_opened_again(bundle: Path) -> None:
    entry = read_manifest(bundle).graph("vit", "gate")
    engine = OrtBackend().open(bundle, entry)
    cases = run_goldens(Goldens.open(bundle), entry.file, engine, lambda *_: None)
    assert len(cases) == 2
    assert all(case.passed for case in cases)


def task(request: BuildRequest, root: Path) -> tuple[str, Arithmetic] | None:
    """Return what a build chooses scales from, and for what."""
    precisions = read_precisions(request.precision, find_target(request.target or "cpu"))
    found = find_task(request, precisions, Source(root, request.model))
    return None if found is None else (found.data.source, found.arithmetic)


def test_demo_is_calibrated_with_its_own_world_and_weights_alone_need_nothing(tmp_path: Path) -> None:
    assert task(BuildRequest("demo", target="rtx", precision="int8"), tmp_path) == (WORLD, "int8")
    assert task(BuildRequest("demo", target="h200", precision="fp8"), tmp_path) == (WORLD, "fp8")
    assert task(BuildRequest("demo", target="rtx", precision="int4"), tmp_path) is None
    assert task(BuildRequest("demo", precision="int8"), tmp_path) is None
    awq = BuildRequest("demo", precision="int4", rounding="awq", calib=tmp_path)  # reads them itself
    assert task(awq, tmp_path) is None


def test_world_is_the_same_each_time_and_no_clip_of_a_split() -> None:
    data = world_data()
    assert digest_data(data) == digest_data(world_data())
    assert digest_data(data).frames == 64
    assert {clip.name.partition("/")[0] for clip in data.clips} == {"calibration"}


class Still:
    """An encoder that reuses every frame as a whole."""

    def reset(self) -> None:
        """Do nothing."""

    def encode(self, frame: Any) -> Any:
        return SimpleNamespace(mode="skip")


def test_data_that_changes_while_it_is_read_is_refused() -> None:
    shades = iter(range(100))

    def frames() -> Iterator[tuple[np.ndarray, float]]:
        shade = next(shades)
        return iter([(np.full((2, 2, 3), shade, np.uint8), 0.0)] * 8)

    data = CalibrationData("a folder", (Clip("x", frames),))
    changing: Any = CalibrationTask(data, digest_data(data), "int8")
    with pytest.raises(UsageError, match='"a folder" changed while it was read: 8 frames with digest'):
        _show(Still(), changing, lambda _: None)


REFUSED = [
    (
        BuildRequest("x", target="rtx", precision="int8"),
        "vit=int8 rounds activations by scales that are chosen from data, and --calib is not given.",
    ),
    (BuildRequest("demo", target="rtx", precision="int4"), "fp16, llm int4 on rtx needs no data."),
    (BuildRequest("demo", precision="vit=int8"), "fp32, vit int8 on cpu needs no data."),
]


@pytest.mark.parametrize(("request_", "problem"), REFUSED)
def test_need_and_data_must_agree(request_: BuildRequest, problem: str, tmp_path: Path) -> None:
    calib = None if "not given" in problem else tmp_path
    with pytest.raises(UsageError) as caught:
        task(replace(request_, calib=calib), tmp_path)
    assert caught.value.problem.endswith(problem)
    assert "--calib" in caught.value.fix
