"""A fingerprint changes with everything that an engine is bound to, and with nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stc_engines.detect import Gpu
from stc_engines.fingerprint import fingerprint_of
from stc_export.spec.manifest import Manifest, read_manifest

ORIN = Gpu("Orin", "8.7")


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return read_manifest(tiny_bundle)


def changed(manifest: Manifest, path: str) -> Manifest:
    files = tuple(replace(f, sha256="0" * 64) if f.path == path else f for f in manifest.files)
    return replace(manifest, files=files)


def differing(manifest: Manifest, other: Manifest) -> tuple[str, ...]:
    return fingerprint_of(manifest, "trt", "10.3.0", ORIN, "36.4.3").differences(
        fingerprint_of(other, "trt", "10.3.0", ORIN, "36.4.3")
    )


def test_device_is_in_it_where_there_is_one(manifest: Manifest) -> None:
    bound = fingerprint_of(manifest, "trt", "10.3.0", ORIN, "36.4.3")
    assert (bound.product, bound.version, bound.device, bound.sm, bound.l4t) == (
        "trt",
        "10.3.0",
        "Orin",
        "8.7",
        "36.4.3",
    )
    free = fingerprint_of(manifest, "trt-rtx", "1.7", None, None)
    assert (free.device, free.sm, free.l4t) == (None, None, None)
    assert [row.graph for row in free.graphs] == [graph.file for graph in manifest.graphs]


def test_changed_graph_concerns_its_engine_only(manifest: Manifest) -> None:
    other = changed(manifest, "graphs/llm.onnx")
    assert differing(manifest, other) == ("graphs/llm.onnx is another graph, or has other weights",)


def test_changed_weights_concern_all_graphs_that_read_them(manifest: Manifest) -> None:
    said = differing(manifest, changed(manifest, "graphs/projector.weights"))
    assert len(said) == sum(graph.role == "pruner" for graph in manifest.graphs)
    assert all(line.startswith("graphs/pruner.") for line in said)


def test_more_memory_is_other_shapes_for_the_llm(manifest: Manifest) -> None:
    memory: Any = replace(manifest.policy.memory, answer_tokens=manifest.policy.memory.answer_tokens + 1)
    other = replace(manifest, policy=replace(manifest.policy, memory=memory))
    assert differing(manifest, other) == ("graphs/llm.onnx was built for other shapes",)


@pytest.mark.parametrize("path", ["tokenizer.json", "goldens/data.bin"])
def test_what_no_engine_is_made_from_changes_nothing(manifest: Manifest, path: str) -> None:
    assert differing(manifest, changed(manifest, path)) == ()
    assert differing(manifest, replace(manifest, writer="another", target="h200")) == ()
