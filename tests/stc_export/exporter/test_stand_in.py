"""Stand-ins of bf16 graphs: against PyTorch's own bfloat16, by hand, and in their structure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from stc_export.exporter.stand_in import needs_stand_in, write_stand_in
from stc_export.pipeline.estimate import stored_files
from stc_export.spec.manifest import GraphEntry, TensorSpec, read_manifest
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.dtypes import narrowed, widened
from stc_runtime.goldens import Goldens, _feeds
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.exporter.graphs import GraphDef
    from stc_export.families.base import StoredFiles

#: Operators that may have bfloat16 on a CPU.
KEPT = {"Cast", "Constant", "ConstantOfShape"}
#: One rounding of bfloat16 is 2^-8 of a number. PyTorch and ONNX Runtime add in another order, so that now and then one
#: of them rounds to the other side, and the layers behind it go on from there. Four roundings, and twice that because a
#: delta is the difference of numbers that are larger than itself.
TOLERANCE = 2 * 4 * 2.0**-8


def as_torch(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def in_torch(graph: GraphDef, stored: StoredFiles, bundle: Path) -> torch.nn.Module:
    """Return the module that a graph came from, with the bytes of the bundle as its weights."""
    with torch.device("meta"):
        module = graph.module().eval()
    places = {name: place for file in graph.weight_files for name, place in stored[file].items()}
    weights = {}
    for name, parameter in module.named_parameters():
        place = places[name]
        data = (bundle / "graphs" / place.file).read_bytes()[place.offset : place.offset + place.length]
        weights[name] = torch.frombuffer(bytearray(data), dtype=parameter.dtype).reshape(parameter.shape)
    module.load_state_dict(weights, strict=True, assign=True)
    return module


@pytest.mark.parametrize(
    ("role", "variant"),
    [("cacher_gate", "default"), ("vit", "gate"), ("pruner", "none"), ("pruner", "stride"), ("llm", "default")],
)
def test_stand_in_computes_what_pytorch_computes_in_bfloat16(
    role: str, variant: str, tiny_checkpoint: Path, runnable_bundle_bf16: Path, tmp_path: Path
) -> None:
    ready = quick.prepared(tiny_checkpoint, tmp_path / "x.stc", target="rtx", precision="bf16", flavour="base")
    graph = next(g for g in ready.split.graphs if (g.role, g.variant) == (role, variant))
    entry = read_manifest(runnable_bundle_bf16).graph(graph.role, graph.variant)
    module = in_torch(graph, stored_files(ready.split), runnable_bundle_bf16)
    engine, goldens = OrtBackend().open(runnable_bundle_bf16, entry), Goldens.open(runnable_bundle_bf16)
    found: dict[str, Any] = {}
    cases = [case for case in goldens.index.cases if case.graph == graph.file]
    assert len(cases) >= 1
    for case in cases:
        feeds = _feeds(goldens, case, found)
        found = engine.run(feeds, {})
        with torch.no_grad():
            expected = module(*graph.nest([as_torch(feeds[spec.name]) for spec in graph.inputs]))
        for spec, value in zip(graph.outputs, expected, strict=True):
            wanted = value.to(torch.float64).numpy()
            error = np.abs(widened(found[spec.name]).astype(np.float64) - wanted).max()
            assert error <= TOLERANCE * np.abs(wanted).max(), (case.case, spec.name)


def small_graph(path: Path, nodes: list[Any], inputs: list[str], outputs: list[str]) -> GraphEntry:
    """Write a graph over bfloat16 [2]."""
    value = {name: helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [2]) for name in (*inputs, *outputs)}
    inner = [name for node in nodes for name in node.output if name not in value]
    graph = helper.make_graph(
        nodes,
        "small",
        [value[name] for name in inputs],
        [value[name] for name in outputs],
        value_info=[helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [2]) for name in inner],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    specs = [tuple(TensorSpec(name, "bfloat16", (2,)) for name in names) for names in (inputs, outputs)]
    return GraphEntry("llm", "default", "stand_in.onnx", (), *specs, "bf16")


def run_small(tmp_path: Path, nodes: list[Any], **feeds: list[float]) -> list[float]:
    entry = small_graph(tmp_path / "graph.onnx", nodes, list(feeds), ["y"])
    write_stand_in(tmp_path / "graph.onnx", tmp_path / "stand_in.onnx")
    arrays = {name: narrowed(np.array(value, np.float32), np.uint16) for name, value in feeds.items()}
    result: list[float] = widened(OrtBackend().open(tmp_path, entry).run(arrays, {})["y"]).tolist()
    return result


def test_every_operator_is_rounded(tmp_path: Path) -> None:
    """By hand: 1 + 2^-8 is half way to the next bfloat16 and goes to the even 1; 1 + 3 x 2^-8 to 1 + 2^-6."""
    nodes = [helper.make_node("Add", ["x", "z"], ["sum"]), helper.make_node("Sub", ["sum", "x"], ["y"])]
    assert run_small(tmp_path, nodes, x=[1.0, 1.0], z=[2.0**-8, 3 * 2.0**-8]) == [0.0, 2.0**-6]


def test_what_overflows_in_half_precision_does_not(tmp_path: Path) -> None:
    """300 x 300 = 90,000 is between 89,600 and 90,112."""
    assert run_small(tmp_path, [helper.make_node("Mul", ["x", "x"], ["y"])], x=[300.0, -1e30])[0] == 90112.0


def test_output_that_another_operator_reads_is_the_rounded_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Mul", ["y", "y"], ["unused"])]
    assert run_small(tmp_path, nodes, x=[1.5, -2.0]) == [3.0, -4.0]


@pytest.mark.parametrize("flavour", ["", "modern_"])
def test_stand_in_has_the_operators_of_the_graph_and_computes_none_in_bfloat16(
    flavour: str, request: pytest.FixtureRequest
) -> None:
    built: Path = request.getfixturevalue(f"tiny_{flavour}bundle_bf16")
    runnable: Path = request.getfixturevalue(f"runnable_{flavour}bundle_bf16")
    for entry in read_manifest(built).graphs:
        before, after = (onnx.load(str(root / entry.file), load_external_data=False) for root in (built, runnable))
        kinds = [[node.op_type for node in model.graph.node if node.op_type != "Cast"] for model in (before, after)]
        assert kinds[0] == kinds[1], entry.file
        weights = [{tensor.name: tensor for tensor in model.graph.initializer} for model in (before, after)]
        assert weights[0] == weights[1], entry.file
        model = onnx.shape_inference.infer_shapes(after)
        values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        narrow = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
        computed = {node.op_type for node in after.graph.node if narrow & {*node.input, *node.output}}
        assert computed <= KEPT, entry.file


def test_only_bfloat16_needs_a_stand_in(tiny_bundle_fp16: Path, tiny_bundle_bf16: Path) -> None:
    for bundle, needed in ((tiny_bundle_fp16, False), (tiny_bundle_bf16, True)):
        for graph in read_manifest(bundle).graphs:
            assert needs_stand_in((*graph.inputs, *graph.outputs)) == needed
