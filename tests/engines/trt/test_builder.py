"""NVIDIA's own compiler (TensorRT-RTX, which needs no GPU to build) takes every graph that we export."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stc_engines.profiles import InputShapes, Profile, profiles_of
from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.product import PRODUCTS
from stc_engines.trt.timing import TimingFile, Untimed, read_cache
from stc_export.spec.errors import EngineError
from stc_export.spec.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")

#: Bundles of :mod:`tests.conftest`: all precisions, real SigLIP layers, untied embeddings, the trained demo, both
#: flavours, and keys and values in 8 bits.
BUNDLES = ["tiny_bundle", "tiny_bundle_fp16", "siglip_bundle", "untied_bundle", "demo_bundle"]
BUNDLES += ["tiny_modern_bundle", "tiny_modern_bundle_fp16", "siglip_modern_bundle_fp16"]
BUNDLES += ["tiny_bundle_bf16", "tiny_modern_bundle_bf16", "tiny_kv_bundle_fp16"]
#: The same at the sizes of SigLIP takes a minute to build and one to compile.
LARGE = pytest.param("siglip_modern_bundle_bf16", marks=pytest.mark.slow)


def note(phases: set[str], phase: str, _done: int, _steps: int) -> None:
    phases.add(phase)


def silent(_phase: str, _done: int, _steps: int) -> None:
    pass


def one_node(tmp_path: Path, node: Any, inputs: dict[str, list[Any]], **initializers: Any) -> str:
    """Write a graph of one node with float inputs; its outputs have no declared shape."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output[:1]],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return str(path)


@pytest.mark.parametrize("name", [*BUNDLES, LARGE])
def test_every_graph_of_a_bundle_becomes_a_plan(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Path = request.getfixturevalue(name)
    manifest = read_manifest(bundle)
    for graph in manifest.graphs:
        phases: set[str] = set()
        recipe = Recipe(str(bundle / graph.file), profiles_of(graph, manifest), optimization_level=1)
        plan = build_plan(trt, recipe, partial(note, phases), Untimed())
        assert len(plan) > 1000, graph.file
        assert phases, graph.file


def test_float32_is_computed_as_such(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT rounds to ten bits by default, which no golden in fp32 would pass."""
    configs: list[Any] = []
    create = trt.Builder.create_builder_config

    def kept(builder: Any) -> Any:
        configs.append(create(builder))
        return configs[-1]

    monkeypatch.setattr(trt.Builder, "create_builder_config", kept)
    build_plan(trt, Recipe(str(tiny_bundle / "graphs" / "pruner.none.onnx"), ()), silent, Untimed())
    assert [config.get_flag(trt.BuilderFlag.TF32) for config in configs] == [False]


def test_input_without_a_profile_is_refused(tiny_bundle: Path) -> None:
    graph = read_manifest(tiny_bundle).graph("vit", "gate")
    with pytest.raises(EngineError, match=r'refuses "vit\.gate\.onnx": .*profile'):
        build_plan(trt, Recipe(str(tiny_bundle / graph.file), ()), silent, Untimed())


def test_ranking_of_more_than_the_compiler_can_is_refused(tmp_path: Path) -> None:
    """The limit of TopK is a reason for the sizes that :mod:`stc_export` accepts."""
    for count, fits in ((3840, True), (3841, False)):
        node = helper.make_node("TopK", ["x", "k"], ["values", "places"])
        recipe = Recipe(one_node(tmp_path, node, {"x": [5000]}, k=np.array([count], np.int64)), ())
        if fits:
            assert build_plan(trt, recipe, silent, Untimed())
        else:
            with pytest.raises(EngineError, match="3840"):
                build_plan(trt, recipe, silent, Untimed())


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    path = one_node(tmp_path, helper.make_node("Unique", ["x"], ["y"]), {"x": [8]})
    with pytest.raises(EngineError, match=r'refuses "one\.onnx": .*Unique') as caught:
        build_plan(trt, Recipe(path, ()), silent, Untimed())
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x07\x12\x00" * 100])
def test_file_that_is_no_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r'refuses "broken\.onnx"'):
        build_plan(trt, Recipe(str(path), ()), silent, Untimed())


def test_limits_and_shapes_reach_the_compiler(tmp_path: Path) -> None:
    path = one_node(tmp_path, helper.make_node("Relu", ["x"], ["y"]), {"x": ["N", 4]})
    profile = Profile("default", (InputShapes("x", (0, 4), (8, 4), (16, 4)),))
    recipe = Recipe(path, (profile,), workspace_bytes=1 << 20, tactic_dram_bytes=1 << 28)
    assert build_plan(trt, recipe, silent, Untimed())
    wrong = Profile("default", (InputShapes("x", (0, 5), (8, 5), (16, 5)),))
    with pytest.raises(EngineError):
        build_plan(trt, Recipe(path, (wrong,)), silent, Untimed())


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_timing_cache_is_written_read_and_merged_as_far_as_the_compiler_goes(tmp_path: Path) -> None:
    """Of TensorRT-RTX the functions are there and pass bytes through; what they hold is tested on a stand-in."""
    path = one_node(tmp_path, helper.make_node("Relu", ["x"], ["y"]), {"x": [4]})
    combined, notes = [], list[str]()

    class Watched(TimingFile):
        def keep(self, config: Any, learned: Any) -> None:
            combined.append(learned.combine(config.create_timing_cache(read_cache(file)), False))
            super().keep(config, learned)

    file = tmp_path / "cache.timing"
    for _ in range(2):
        assert build_plan(trt, Recipe(path, ()), silent, Watched(file, notes.append))
        assert read_cache(file).startswith(b"ptrt")
    assert combined == [True, True]
    assert notes == []


def test_compiler_without_a_use_for_timing_caches_says_so() -> None:
    """If this fails, TensorRT-RTX times kernels again, and PRODUCTS must say so."""
    config = trt.Builder(trt.Logger()).create_builder_config()
    with pytest.warns(DeprecationWarning, match="Timing cache operations are no-ops"):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    assert not PRODUCTS["trt-rtx"].times
