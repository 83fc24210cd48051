"""ONNX files as every backend must be able to read them, and what a traced graph must not do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from stc_export.exporter.graphs import DimRange, GraphDef
from stc_export.exporter.trace import TraceError, trace
from stc_export.exporter.weights import StoredTensor
from stc_export.spec.interface import Interface
from stc_export.spec.manifest import GraphEntry, Manifest, TensorSpec, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

ONNX_DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.UINT8: "uint8",
}
#: Their output's size or their work depends on data, or TensorRT does not build them.
FORBIDDEN = {"NonZero", "Compress", "Unique", "If", "Loop", "Scan", "NonMaxSuppression", "RandomNormal"}
FORBIDDEN |= {"RandomUniform", "RandomUniformLike", "RandomNormalLike", "Bernoulli", "Multinomial"}
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_bundle_fp16"])
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def models(bundle: Path) -> Iterator[tuple[GraphEntry, onnx.ModelProto]]:
    for entry in read_manifest(bundle).graphs:
        yield entry, onnx.load(bundle / entry.file, load_external_data=False)


def ports(values: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            value.name,
            ONNX_DTYPES[value.type.tensor_type.elem_type],  # type: ignore[arg-type]
            tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim),
        )
        for value in values
    )


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def test_bundle_has_every_role_and_variant(manifest: Manifest) -> None:
    assert [(g.role, g.variant) for g in manifest.graphs] == [
        ("cacher_gate", "default"),
        ("vit", "gate"),
        ("vit", "per_layer"),
        ("vit", "shared"),
        ("pruner", "none"),
        ("pruner", "random"),
        ("pruner", "stc_gaussian"),
        ("pruner", "stc_dual_anchor"),
        ("pruner", "stride"),
        ("pruner", "vidcom2"),
        ("pruner", "vcast"),
        ("pruner", "evs"),
        ("llm", "default"),
    ]


def test_graphs_are_valid_opset_18_of_the_standard_domain_only(bundle: Path) -> None:
    for entry, model in models(bundle):
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)], entry.file
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        onnx.checker.check_model(str(bundle / entry.file), full_check=True)  # with the weight files beside it


def test_interface_is_the_declared_one_with_the_declared_letters(bundle: Path) -> None:
    for entry, model in models(bundle):
        assert (ports(model.graph.input), ports(model.graph.output)) == (entry.inputs, entry.outputs)


def test_only_the_declared_dimensions_are_dynamic(manifest: Manifest) -> None:
    letters = {
        (g.role, g.variant): {d for spec in (*g.inputs, *g.outputs) for d in spec.shape if isinstance(d, str)}
        for g in manifest.graphs
    }
    assert letters == {
        ("cacher_gate", "default"): set(),
        ("vit", "gate"): {"R"},
        ("vit", "per_layer"): {"R"},
        ("vit", "shared"): {"R"},
        ("pruner", "none"): set(),
        ("pruner", "random"): {"K"},
        ("pruner", "stc_gaussian"): {"K", "W"},
        ("pruner", "stc_dual_anchor"): {"K", "W"},
        ("pruner", "stride"): {"K"},
        ("pruner", "vidcom2"): {"K", "W"},
        ("pruner", "vcast"): {"K"},
        ("pruner", "evs"): {"K", "W"},
        ("llm", "default"): {"P", "S"},
    }


def test_intermediate_shapes_are_written_in_the_declared_letters(bundle: Path) -> None:
    for entry, model in models(bundle):
        known = {d for spec in entry.inputs for d in spec.shape if isinstance(d, str)}
        for value in model.graph.value_info:
            for dim in value.type.tensor_type.shape.dim:
                assert set(re.findall(r"[A-Za-z_]\w*", dim.dim_param)) <= known, (entry.file, value.name)


def test_weights_are_external_under_plain_names_inside_declared_files(bundle: Path) -> None:
    for entry, model in models(bundle):
        files = set()
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert np.prod(tensor.dims, initial=1) <= 4096
                continue
            place = {item.key: item.value for item in tensor.external_data}
            assert set(place) == {"location", "offset", "length"}
            assert Path(place["location"]).name == place["location"]
            assert int(place["offset"]) + int(place["length"]) <= (bundle / "graphs" / place["location"]).stat().st_size
            assert PLAIN.fullmatch(tensor.name), tensor.name
            files.add(f"graphs/{place['location']}")
        assert files == set(entry.weights)


def test_large_weights_are_aligned_to_pages_so_that_they_can_be_mapped(bundle: Path) -> None:
    for _entry, model in models(bundle):
        offsets = {
            tensor.name: int(next(item.value for item in tensor.external_data if item.key == "offset"))
            for tensor in model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        }
        unaligned = {name for name, offset in offsets.items() if offset % 4096}
        assert all(re.search(r"\.k\.(weight|bias)$", name) for name in unaligned)  # rows of a larger tensor


def test_no_operator_depends_on_data_for_its_shape_or_is_out_of_reach_of_tensorrt(bundle: Path) -> None:
    for entry, model in models(bundle):
        assert not {node.op_type for node in model.graph.node} & FORBIDDEN, entry.file
        for node in model.graph.node:
            assert not any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
            if node.op_type == "ScatterND":
                reductions = {a.s for a in node.attribute if a.name == "reduction"}
                assert reductions <= {b"none"}


def test_topk_counts_are_the_length_of_the_carrier_or_constant(bundle: Path) -> None:
    seen = {}
    for entry, model in models(bundle):
        made = producers(model)
        sources = []
        for node in (n for n in model.graph.node if n.op_type == "TopK"):
            name, steps = node.input[1], []
            while name in made and made[name].input:
                steps.append(made[name].op_type)
                name = made[name].input[0]
            if name in made:
                (value,) = (a.t for a in made[name].attribute)
                sources.append(int(numpy_helper.to_array(value).item()))
            else:
                assert steps[-1] == "Shape"
                assert set(steps) <= {"Shape", "Squeeze", "Reshape", "Unsqueeze", "Gather", "Cast", "Concat"}
                sources.append(name)
        seen[entry.role, entry.variant] = sources
    layers = 3
    assert seen == {
        ("cacher_gate", "default"): [],
        ("vit", "gate"): [],
        ("vit", "per_layer"): ["carrier"] * layers,
        ("vit", "shared"): ["carrier"],
        ("pruner", "none"): [],
        ("pruner", "random"): ["carrier", "carrier"],
        ("pruner", "stc_gaussian"): [24, "carrier", "carrier"],  # half of the 48 channels
        ("pruner", "stc_dual_anchor"): ["carrier", "carrier"],
        ("pruner", "stride"): [],
        ("pruner", "vidcom2"): ["carrier", "carrier"],
        ("pruner", "vcast"): ["carrier", "carrier"],
        ("pruner", "evs"): ["carrier", "carrier"],
        ("llm", "default"): [],
    }


def test_linear_layers_are_gemm_without_transposed_weights(bundle: Path) -> None:
    for entry, model in models(bundle):
        weights = {t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        assert not [n.name for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in weights], entry.file
        for node in (n for n in model.graph.node if n.op_type == "Gemm"):
            assert [a.i for a in node.attribute if a.name == "transB"] == [1]


def test_files_say_nothing_of_the_machine_that_exported_them(bundle: Path) -> None:
    traces = (b".py", b"site-packages", b"Traceback", b"File ", b"/root", b"/home", b"/tmp", str(Path.cwd()).encode())
    for entry, model in models(bundle):
        data = (bundle / entry.file).read_bytes()
        assert not [word for word in traces if word in data], entry.file
        assert (model.producer_name, model.producer_version, model.doc_string) == ("stc-export", "", "")
        assert not any(node.doc_string for node in model.graph.node)
        keys = {item.key for node in model.graph.node for item in node.metadata_props}
        assert keys <= {"pkg.torch.onnx.name_scopes"}


#: Traces graphs of a checkpoint again, in another process with another order of sets.
AGAIN = """
import sys
from pathlib import Path
from stc_export.exporter.trace import trace
from stc_export.pipeline.estimate import stored_files
from stc_export.pipeline.plan import prepare
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildRequest

directory, out = Path(sys.argv[1]), Path(sys.argv[2])
prepared = prepare(BuildRequest(str(directory), out=out / "x.stc"), Source(directory, "tiny"))
for graph in reversed(prepared.split.graphs):
    if graph.variant in sys.argv[3:]:
        trace(graph, stored_files(prepared.split), out / Path(graph.file).name)
"""


def test_graph_traced_again_in_another_process_has_the_same_bytes(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    variants = ("default", "per_layer", "stc_gaussian")
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    command = [sys.executable, "-c", AGAIN, str(tiny_checkpoint), str(tmp_path), *variants]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"cacher_gate.onnx", "vit.per_layer.onnx", "pruner.stc_gaussian.onnx", "llm.onnx"}
    assert {name: (tiny_bundle / "graphs" / name).read_bytes() for name in files} == files


# --- graphs of our own -----------------------------------------------------------------------------------------------


class Scale(torch.nn.Module):
    """[N, 3] -> [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Accumulate(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.index_put((torch.zeros(1, dtype=torch.int64, device=x.device),), x[:1], accumulate=True)


def graph_of(module: Callable[[], Any], output: tuple[int | str, ...] = ("N", 3), dtype: Any = "float32") -> GraphDef:
    return GraphDef(
        role="vit",
        variant="x",
        module=module,
        interface=Interface((TensorSpec("x", "float32", ("N", 3)),), (TensorSpec("y", dtype, output),)),
        nest=tuple,
        dims={"N": DimRange(1, 100, 7)},
        weight_files=("w.weights",),
    )


def place(shape: tuple[int, ...], dtype: Any = "float32") -> dict[str, dict[str, StoredTensor]]:
    size = int(np.prod(shape)) * 4
    return {"w.weights": {"weight": StoredTensor("w.weights", dtype, shape, 4096, size)}}


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_traced_graph_takes_any_size_in_range_and_reads_its_weights_in_place(tmp_path: Path, rows: int) -> None:
    values = np.array([2.0, -1.0, 0.5], np.float32)
    (tmp_path / "w.weights").write_bytes(bytes(4096) + values.tobytes())
    assert trace(graph_of(Scale), place((3,)), tmp_path / "x.onnx") == ("w.weights",)
    x = np.random.default_rng(0).standard_normal((rows, 3), dtype=np.float32)
    np.testing.assert_array_equal(run(tmp_path / "x.onnx", x), x * values)


@pytest.mark.parametrize(
    ("graph", "stored", "message"),
    [
        (graph_of(Scale), {"w.weights": {}}, "no stored weight for the initializer weight"),
        (graph_of(Scale), place((4,)), r"weight is \(3,\) in the graph and \(4,\) in the weight file"),
        (graph_of(Scale, output=("N", 4)), place((3,)), r"output is \('y', .*, \['N', 3\]\), declared"),
        (graph_of(Scale, output=(7, 3)), place((3,)), r"output is \('y', .*, \['N', 3\]\), declared"),
        (graph_of(Scale, dtype="float16"), place((3,)), r"output is \('y', FLOAT, .*\), declared \('y', FLOAT16"),
    ],
)
def test_graph_that_is_not_as_declared_is_refused_and_not_written(
    tmp_path: Path, graph: GraphDef, stored: dict[str, dict[str, StoredTensor]], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        trace(graph, stored, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_scatter_that_adds_up_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is exported") as caught:  # torch wraps what a translation raises
        trace(graph_of(Accumulate), {"w.weights": {}}, tmp_path / "x.onnx")
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, TraceError):
        error = error.__cause__
    assert str(error) == "only x.index_put(rows, values) for the leading axes is exported"


def test_json_of_scopes_names_modules_only(tiny_bundle: Path) -> None:
    for _entry, model in models(tiny_bundle):
        for node in model.graph.node:
            for item in node.metadata_props:
                assert all("/" not in scope for scope in json.loads(item.value.replace("'", '"')))
