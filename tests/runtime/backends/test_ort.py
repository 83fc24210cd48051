"""What is ONNX Runtime's own: its absence, its providers, its errors."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stc_export.spec.errors import BundleError, DeviceError, MissingDependencyError, ResourceError, StcError
from stc_export.spec.manifest import GraphEntry, TensorSpec, read_manifest
from stc_runtime import Bundle
from stc_runtime.backends.ort import OrtBackend, OrtEngine

if TYPE_CHECKING:
    from pathlib import Path


def test_without_onnxruntime_raises_and_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as caught:
        OrtBackend()
    assert caught.value.problem == "onnxruntime is not installed."
    assert caught.value.fix == 'Install it: pip install "stc-export[ort]".'


def test_provider_that_this_onnxruntime_lacks_raises() -> None:
    with pytest.raises(DeviceError) as caught:
        OrtBackend(("NoSuchExecutionProvider", "CPUExecutionProvider"))
    assert caught.value.problem == "This onnxruntime has no NoSuchExecutionProvider."
    assert caught.value.fix == 'For CUDA install: pip install "stc-export[cuda]".'


def test_number_of_threads_changes_no_result(tiny_bundle: Path) -> None:
    graph = Bundle.open(tiny_bundle).manifest.graph("pruner", "none")
    features = np.random.default_rng(0).normal(size=(25, 32)).astype(np.float32)
    one, two, default = (
        OrtBackend(threads=threads).open(tiny_bundle, graph).run({"features": features}, {}) for threads in (1, 2, None)
    )
    np.testing.assert_array_equal(one["visual_tokens"], two["visual_tokens"])
    np.testing.assert_array_equal(one["visual_tokens"], default["visual_tokens"])


@pytest.fixture(scope="module")
def pruner(tiny_bundle: Path) -> GraphEntry:
    return Bundle.open(tiny_bundle).manifest.graph("pruner", "stc_gaussian")


def port(graph: GraphEntry, port_name: str, changes: dict[str, Any]) -> GraphEntry:
    def changed(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, **changes) if spec.name == port_name else spec for spec in specs)

    return replace(graph, inputs=changed(graph.inputs), outputs=changed(graph.outputs))


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        (
            "features",
            {"shape": (25, 31)},
            "has tensor(float) [25, 32] where the manifest declares features float32 [25, 31].",
        ),
        ("features", {"shape": (25,)}, "has tensor(float) [25, 32] where the manifest declares features float32 [25]."),
        (
            "features",
            {"shape": ("T", 32)},
            "has tensor(float) [25, 32] where the manifest declares features float32 ['T', 32].",
        ),
        (
            "history",
            {"shape": (3, 24)},
            "has tensor(float) ['W', 24] where the manifest declares history float32 [3, 24].",
        ),
        (
            "kept_indices",
            {"dtype": "float32"},
            "has tensor(int64) ['K'] where the manifest declares kept_indices float32 ['K'].",
        ),
        ("carrier", {"name": "length"}, "has nothing where the manifest declares length int64 ['K']."),
    ],
)
def test_graph_that_is_not_as_declared_raises_when_opened(
    tiny_bundle: Path, pruner: GraphEntry, name: str, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BundleError) as caught:
        OrtBackend(threads=1).open(tiny_bundle, port(pruner, name, changes))
    assert caught.value.problem == f'"graphs/pruner.stc_gaussian.onnx" {problem}'


def test_graph_with_more_outputs_than_declared_raises_when_opened(tiny_bundle: Path, pruner: GraphEntry) -> None:
    with pytest.raises(BundleError) as caught:
        OrtBackend(threads=1).open(tiny_bundle, replace(pruner, outputs=pruner.outputs[:2]))
    assert caught.value.problem == (
        '"graphs/pruner.stc_gaussian.onnx" has history_entry, which the manifest does not declare.'
    )


class Failing:
    """An ONNX Runtime session whose run fails."""

    def __init__(self, session: Any, error: Exception) -> None:
        self._session, self._error = session, error

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, _binding: Any) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "kind", "problem"),
    [
        (
            RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"),
            ResourceError,
            'Not enough memory to run "graphs/pruner.none.onnx".',
        ),
        (MemoryError(), ResourceError, 'Not enough memory to run "graphs/pruner.none.onnx".'),
        (
            RuntimeError("first line\nsecond line"),
            BundleError,
            'ONNX Runtime cannot run "graphs/pruner.none.onnx" (first line).',
        ),
        (RuntimeError(), BundleError, 'ONNX Runtime cannot run "graphs/pruner.none.onnx" (RuntimeError).'),
    ],
    ids=["allocation", "memory", "other", "silent"],
)
def test_run_that_fails_inside_raises_one_sentence(
    tiny_bundle: Path, error: Exception, kind: type[StcError], problem: str
) -> None:
    graph = Bundle.open(tiny_bundle).manifest.graph("pruner", "none")
    engine = OrtBackend(threads=1).open(tiny_bundle, graph)
    assert isinstance(engine, OrtEngine)
    with pytest.raises(kind) as caught:
        OrtEngine(Failing(engine._session, error), graph).run({"features": np.zeros((25, 32), np.float32)}, {})
    assert caught.value.problem == problem


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"\x08\x0a garbage"], ids=["empty", "zeros", "garbage"])
def test_file_that_is_no_graph_raises_when_opened(tmp_path: Path, pruner: GraphEntry, data: bytes) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / pruner.file).write_bytes(data)
    with pytest.raises(BundleError) as caught:
        OrtBackend(threads=1).open(tmp_path, pruner)
    assert caught.value.problem.startswith(f'ONNX Runtime cannot open "{pruner.file}" (')
    assert caught.value.fix == "Check the bundle: stc-export inspect BUNDLE."


def test_graph_without_its_weights_raises_when_opened(tmp_path: Path, tiny_bundle: Path, pruner: GraphEntry) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / pruner.file).write_bytes((tiny_bundle / pruner.file).read_bytes())
    with pytest.raises(BundleError):
        OrtBackend(threads=1).open(tmp_path, pruner)


def test_bf16_graph_on_a_cpu_says_where_it_runs(tiny_bundle_bf16: Path) -> None:
    with pytest.raises(BundleError) as caught:
        OrtBackend().open(tiny_bundle_bf16, read_manifest(tiny_bundle_bf16).graph("llm"))
    assert caught.value.problem.startswith('ONNX Runtime cannot open "graphs/llm.onnx" (')
    assert caught.value.fix == (
        "It does not compute every type on every device: run the bundle on the target that it was built for, or build "
        "it with --precision fp32."
    )
