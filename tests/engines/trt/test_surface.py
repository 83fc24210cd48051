"""Builder and backend touch only what every release of TensorRT has. Its bindings are imported without libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from stc_engines.profiles import profiles_of
from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.timing import TimingFile, Untimed
from stc_export.spec.errors import EngineError
from stc_export.spec.manifest import read_manifest
from stc_runtime import Bundle
from stc_runtime.goldens import Goldens, run_goldens
from tests.bundles import shared_root
from tests.engines.trt.surface import MODULE, Recorded, Touch, missing, unpack_bindings
from tests.runtime.backends.fake_trt import FakeDevice, FakeTensorRt, any_shape, make_backend, write_plans

VERSIONS = ["10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"]


@pytest.fixture(scope="session")
def touched(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> set[Touch]:
    """Build a graph with all limits, and one that is refused, and return what was touched."""
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    manifest = read_manifest(tiny_bundle)
    graph = manifest.graph("pruner", "stc_dual_anchor")
    found: set[Touch] = set()
    module = Recorded(trt, MODULE, trt.__name__, found)
    folder = tmp_path_factory.mktemp("surface")
    recipe = Recipe(str(tiny_bundle / graph.file), profiles_of(graph, manifest), 1, 1 << 24, 1 << 30)
    timings = TimingFile(folder / "cache.timing", lambda _: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # timing caches are, in TensorRT-RTX: see PRODUCTS
        assert build_plan(module, recipe, lambda *_: None, timings)
    broken = folder / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(EngineError):
        build_plan(module, Recipe(str(broken), ()), lambda *_: None, Untimed())
    found |= run_recorded(Bundle.open(tiny_bundle), tmp_path_factory.mktemp("plans"))
    # Of interfaces the real classes are used, which take nothing down.
    severity = {Touch("ILogger", "Severity", -1), Touch("ILogger.Severity", "ERROR", -1)}
    return found | severity | {Touch("ILogger.Severity", "INTERNAL_ERROR", -1), Touch(MODULE, "__version__", -1)}


def run_recorded(bundle: Bundle, folder: Path) -> set[Touch]:
    """Run all goldens of a bundle in the backend, on a TensorRT that is none but has its names."""
    found: set[Touch] = set()
    device = FakeDevice()
    module = Recorded(FakeTensorRt(device, any_shape), MODULE, FakeTensorRt.__module__, found)
    backend = make_backend(module, device, write_plans(bundle.root, bundle.manifest, folder))
    goldens = Goldens.open(bundle.root)
    for graph in bundle.manifest.graphs:
        run_goldens(goldens, graph.file, backend.open(bundle.root, graph), lambda _case, _run: None)
    return found


@pytest.fixture(scope="session", params=VERSIONS)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A release of the bindings with empty libraries beside it."""
    version: str = request.param
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make empty libraries with")
    if not sys.platform.startswith("linux") or sys.version_info[:2] > (3, 12):
        pytest.skip("10.3 has bindings for Linux and up to Python 3.12 only")
    folder = shared_root(tmp_path_factory) / f"bindings-{version}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            try:
                unpack_bindings(version, folder)
            except (subprocess.CalledProcessError, OSError) as error:
                if "CI" in os.environ:
                    raise
                pytest.skip(f"the bindings of {version} could not be made ready: {error}")
    return version, folder


def test_recording_sees_what_the_builder_does(touched: set[Touch]) -> None:
    assert {
        Touch(MODULE, "Builder", 1),
        Touch("Builder", "create_network", 1),
        Touch("Builder", "build_serialized_network", 2),
        Touch("OnnxParser", "parse_from_file", 1),
        Touch("ParserError", "desc", 0),
        Touch("IOptimizationProfile", "set_shape", 4),
        Touch("IBuilderConfig", "set_memory_pool_limit", 2),
        Touch("IBuilderConfig", "progress_monitor", -1),
        Touch("IBuilderConfig", "create_timing_cache", 1),
        Touch("IBuilderConfig", "set_timing_cache", 2),
        Touch("ITimingCache", "combine", 2),
        Touch("ITimingCache", "serialize", 0),
        Touch("MemoryPoolType", "TACTIC_DRAM", -1),
        Touch("IProgressMonitor", "step_complete", -1),
        Touch("Runtime", "deserialize_cuda_engine", 1),
        Touch("ICudaEngine", "get_tensor_profile_shape", 2),
        Touch("IExecutionContext", "set_optimization_profile_async", 2),
        Touch("IExecutionContext", "execute_async_v3", 1),
        Touch("ILogger", "log", -1),
    } <= touched


def test_release_has_all_that_the_builder_touches(release: tuple[str, Path], touched: set[Touch]) -> None:
    assert missing(release[1], touched) == []


def test_release_lacks_what_it_is_known_to_lack(release: tuple[str, Path]) -> None:
    """The check can fail: on a name that nobody has, on one argument too many, and on what 11 has removed."""
    version, folder = release
    nobody = {Touch(MODULE, "Nothing", -1), Touch("Builder", "create_network", 7), Touch("Nothing", "at_all", -1)}
    removed = {Touch("BuilderFlag", "FP16", -1), Touch("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", -1)}
    found = set(missing(folder, nobody | removed))
    assert found == nobody | (removed if version.startswith("11.") else set())


def test_release_before_11_has_the_flag_for_strong_typing(release: tuple[str, Path]) -> None:
    version, folder = release
    if not version.startswith("11."):
        assert missing(folder, {Touch("NetworkDefinitionCreationFlag", "STRONGLY_TYPED", -1)}) == []
