"""The checks of devices find a device that computes something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stc_export.spec.manifest import GraphEntry
from stc_export.world.splits import Quiz
from stc_runtime.backends.base import Engine
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.store import HostMemory
from tests.device.checks import answers, failures, golden_rows


class Wrong(HostMemory):
    """A device whose engines of one graph are wrong by a factor, or turn the order of the logits around."""

    def __init__(self, role: str, factor: float) -> None:
        self._role, self._factor = role, factor

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        engine, factor = OrtBackend(threads=1).open(root, graph), self._factor
        if graph.role != self._role:
            return engine

        class Changed:
            def run(self, feeds: Any, into: Any) -> dict[str, Any]:
                outputs = engine.run(feeds, into)
                for name in outputs.keys() & {"features", "logits"}:
                    outputs[name] = (outputs[name] * factor).astype(outputs[name].dtype)
                for name in into.keys() & {"features", "logits"}:
                    np.multiply(into[name], factor, out=into[name], casting="unsafe")
                return outputs

        return Changed()


def test_right_device_has_no_failures(tiny_bundle: Path) -> None:
    assert failures(tiny_bundle, golden_rows(tiny_bundle, OrtBackend(threads=1))) == []


def test_wrong_engine_is_named_with_its_error(tiny_bundle: Path) -> None:
    found = failures(tiny_bundle, golden_rows(tiny_bundle, Wrong("llm", 1.01)))
    assert found[0].startswith("graphs/llm.onnx (prefill) logits: 1.00e-02 > ")


def test_graph_without_goldens_is_a_failure(tiny_bundle: Path) -> None:
    rows = [row for row in golden_rows(tiny_bundle, OrtBackend(threads=1)) if "llm" not in row.graph]
    assert failures(tiny_bundle, rows) == ["graphs/llm.onnx"]


def test_answers_of_a_device_that_is_wrong_differ(demo_bundle: Path, quizzes: tuple[Quiz, ...]) -> None:
    right = answers(demo_bundle, OrtBackend(), quizzes[0])
    assert len(right) == len(quizzes[0].questions) > 1
    assert all(tokens for tokens in right)
    assert answers(demo_bundle, Wrong("llm", -1.0), quizzes[0]) != right
