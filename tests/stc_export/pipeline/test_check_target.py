"""A bundle against a target: releases, memory and precision; the rules themselves are tested with the engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from stc_engines.table import find_target
from stc_export.exporter.nodes import read_nodes
from stc_export.pipeline import check_target as module
from stc_export.pipeline.check_target import check_target
from stc_export.pipeline.types import CheckResult
from stc_export.spec.errors import BundleError, UnsupportedError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.progress import Silent
from tests.stc_export.pipeline.small_bundle import small_manifest


def check(bundle: Path, target: str | None = None) -> CheckResult:
    return check_target(bundle, target, Silent())


def test_own_target_needs_no_name_and_has_nothing_against_it(tiny_bundle: Path) -> None:
    result = check(tiny_bundle)
    assert (result.target, result.releases, result.findings, result.ok) == ("cpu", ("ort",), (), True)


def test_board_is_checked_for_each_of_its_releases(tiny_bundle: Path) -> None:
    result = check(tiny_bundle, "jetson")
    assert result.target == "jetson-orin-nano-8gb"
    assert result.releases == ("TensorRT 10.3 (JetPack 6.2)", "TensorRT 10.16 (JetPack 7.2)")
    assert result.ok
    assert all(row.releases == result.releases for row in result.findings)


def test_card_without_a_release_is_checked_for_the_oldest(tiny_bundle: Path) -> None:
    assert check(tiny_bundle, "h200").releases == ("TensorRT 10.3",)


def test_card_is_checked_for_the_oldest_release_of_the_flavour(tiny_modern_bundle_fp16: Path) -> None:
    result = check(tiny_modern_bundle_fp16, "h200")
    assert (result.releases, result.findings, result.ok) == (("TensorRT 10.16",), (), True)


def test_modern_bundle_on_a_board_says_which_release_lacks_what(tiny_modern_bundle_fp16: Path) -> None:
    result = check(tiny_modern_bundle_fp16, "jetson")
    assert not result.ok
    assert {row.releases for row in result.findings} == {("TensorRT 10.3 (JetPack 6.2)",)}
    assert {row.finding.fix for row in result.findings} == {
        "Build the bundle in the flavour base, or update TensorRT.",
        "Update TensorRT, or build the bundle in the flavour base and without int4.",
    }
    assert "The graph has opset 24, TensorRT 10.3 reads up to 20." in {row.finding.problem for row in result.findings}


def test_fp32_attention_is_slow_at_its_layers(tiny_bundle: Path) -> None:
    rows = [row.finding for row in check(tiny_bundle, "jetson").findings if row.finding.graph == "graphs/vit.gate.onnx"]
    layers = read_manifest(tiny_bundle).dims.vision.layers
    assert [row.module for row in rows] == [f"layers.{layer}.qvk" for layer in range(layers)]
    assert {(row.level, row.rule) for row in rows} == {("slow", "attention")}


def test_fp16_vit_has_nothing_against_it(tiny_bundle_fp16: Path) -> None:
    found = {row.finding.graph for row in check(tiny_bundle_fp16, "jetson").findings}
    assert found <= {"graphs/llm.onnx"}


def test_bundle_that_does_not_fit_is_an_error(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(find_target("jetson-orin-nano-8gb"), memory_bytes=2**21, memory_reserved_bytes=2**20)
    monkeypatch.setattr(module, "find_target", lambda _name: small)
    result = check(tiny_bundle, "jetson")
    assert not result.ok
    (finding,) = [row.finding for row in result.findings if row.finding.level == "error"]
    assert (finding.rule, finding.graph) == ("memory", "")
    assert "has room for 1,048,576" in finding.problem


def test_precision_that_a_target_does_not_compute_is_an_error(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = replace(find_target("rtx"), precisions=("fp16",))
    monkeypatch.setattr(module, "find_target", lambda _name: half)
    errors = [row.finding for row in check(tiny_bundle, "rtx").findings if row.finding.level == "error"]
    assert [(row.rule, row.fix) for row in errors] == [("precision", "Build it with --precision fp16.")]


def test_graph_in_few_bits_that_a_target_does_not_compute_is_an_error() -> None:
    manifest = small_manifest()
    gate, vit = manifest.graphs
    few = replace(manifest, precision="fp16", graphs=(replace(gate, precision="fp16"), replace(vit, precision="fp8")))
    assert module._precisions(few, find_target("h200")) == []
    (finding,) = module._precisions(few, find_target("jetson-orin-nano-8gb"))
    assert finding.problem == "The bundle has fp8, jetson-orin-nano-8gb computes fp32, fp16, bf16, int8, int4."
    assert finding.fix == "Build it with --precision fp32 or fp16 or bf16."


def test_largest_letters_are_those_of_the_profiles(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    tokens = manifest.dims.vision.tokens
    assert module._most(manifest.graph("vit", "gate"), manifest) == {"R": tokens}
    assert module._most(manifest.graph("cacher_gate"), manifest) == {}
    assert set(module._most(manifest.graph("llm"), manifest)) == {"S", "P"}


def test_wrong_names_are_errors(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError):
        check(tiny_bundle, "jetsam")
    with pytest.raises(BundleError):
        check(tmp_path)


# --- reading of graphs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x07\x12\x00" * 100])
def test_file_that_is_no_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="is no ONNX graph"):
        read_nodes(path, "a.onnx")


def test_nodes_have_the_types_and_shapes_that_onnx_infers(tiny_bundle: Path) -> None:
    graph = read_nodes(tiny_bundle / "graphs/vit.per_layer.onnx", "x")
    model = onnx.load(tiny_bundle / "graphs/vit.per_layer.onnx", load_external_data=False)
    assert [node.op for node in graph.nodes] == [node.op_type for node in model.graph.node]
    assert graph.opset == 18
    (first, *_) = [node for node in graph.nodes if node.op == "TopK"]
    assert first.outputs[0].shape is not None
    assert first.inputs[0].dtype == "float32"
    typed = [tensor.dtype for node in graph.nodes for tensor in (*node.inputs, *node.outputs) if tensor.name]
    assert typed.count("") == 0


def test_weights_are_constants_without_values(tiny_bundle: Path) -> None:
    graph = read_nodes(tiny_bundle / "graphs/llm.onnx", "x")
    gemm = next(node for node in graph.nodes if node.op == "Gemm")
    weight = gemm.inputs[1]
    assert (weight.constant, weight.value) == (True, None)
    assert gemm.module.startswith("layers.0")
