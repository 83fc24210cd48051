"""Checks of graphs, held against NVIDIA's own compiler: what it refuses must be found, and nothing else be an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stc_engines.lint.finding import Finding, Setting
from stc_engines.lint.operators import known_operators
from stc_engines.lint.rules import RULES, check_graph
from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.timing import Untimed
from stc_export.exporter.nodes import read_nodes
from stc_export.spec.errors import BundleError, EngineError
from stc_export.spec.manifest import read_manifest

FLOAT, HALF, INT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
Ports = dict[str, tuple[int, list[Any] | None]]


def write(
    path: Path, nodes: list[Any], inputs: Ports, outputs: Ports, opset: int = 18, domain: str = "", **constants: Any
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *port) for name, port in inputs.items()],
        [helper.make_tensor_value_info(name, *port) for name, port in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets)
    if any(shape is None for _, shape in outputs.values()):
        _number_dimensions(model)
    onnx.save(model, path)
    return path


def _number_dimensions(model: Any) -> None:
    """Give outputs without a shape at least the number of their dimensions, which ONNX wants."""
    inferred = onnx.shape_inference.infer_shapes(model)
    for value, known in zip(model.graph.output, inferred.graph.output, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            rank = len(known.type.tensor_type.shape.dim) or 1
            value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [None] * rank))


def found(path: Path, setting: Setting | None = None) -> list[Finding]:
    return list(check_graph(read_nodes(path, path.name), "trt", setting or Setting((10, 3))))


def errors(path: Path, setting: Setting | None = None) -> list[str]:
    return [finding.rule for finding in found(path, setting) if finding.level == "error"]


N = helper.make_node


def topk(path: Path, k: int) -> Path:
    node = N("TopK", ["x", "k"], ["v", "i"], name="rank")
    return write(path, [node], {"x": (FLOAT, [5000])}, {"v": (FLOAT, None)}, k=np.array([k], np.int64))


def unary(op: str, kind: int, **attributes: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        out = {"Cast": FLOAT, "NonZero": INT}.get(op, kind)
        return write(path, [N(op, ["x"], ["y"], **attributes)], {"x": (kind, [8])}, {"y": (out, None)})

    return make


def k_from_data(path: Path) -> Path:
    nodes = [N("ReduceSum", ["mask"], ["k"], keepdims=1), N("TopK", ["x", "k"], ["v", "i"])]
    return write(path, nodes, {"x": (FLOAT, [50]), "mask": (INT, [50])}, {"v": (FLOAT, None)})


def k_from_shape(path: Path) -> Path:
    nodes = [N("Shape", ["carrier"], ["k"]), N("TopK", ["x", "k"], ["v", "i"])]
    return write(path, nodes, {"x": (FLOAT, [50]), "carrier": (INT, [7])}, {"v": (FLOAT, None)})


def uint8_slice(path: Path) -> Path:
    nodes = [N("Slice", ["x", "a", "b"], ["s"]), N("Cast", ["s"], ["y"], to=FLOAT)]
    a, b = np.array([0], np.int64), np.array([4], np.int64)
    return write(path, nodes, {"x": (TensorProto.UINT8, [8])}, {"y": (FLOAT, None)}, a=a, b=b)


def mixed_add(path: Path) -> Path:
    """No valid ONNX, but what a careless edit of a graph leaves."""
    inputs: Ports = {"x": (HALF, [8]), "z": (FLOAT, [8])}
    return write(path, [N("Add", ["x", "z"], ["y"])], inputs, {"y": (HALF, [8])})


def mixed_pow(path: Path) -> Path:
    """Allowed by ONNX: base and exponent may differ."""
    return write(
        path, [N("Pow", ["x", "p"], ["y"])], {"x": (HALF, [8])}, {"y": (HALF, None)}, p=np.array(2.0, np.float32)
    )


def attention(kind: int = HALF, width: int = 16, mask: int | None = None, **attributes: Any) -> Callable[[Path], Path]:
    """Four query heads over two key heads, four new tokens over 32 slots."""

    def make(path: Path) -> Path:
        cache = [1, 2, 32, width]
        inputs: Ports = {"q": (kind, [1, 4, 4, width]), "k": (kind, cache), "v": (kind, cache)}
        if mask is not None:
            inputs["m"] = (mask, [4, 32])
        node = N("Attention", list(inputs), ["y"], scale=0.25, **attributes)
        return write(path, [node], inputs, {"y": (kind, None)}, opset=24)

    return make


def scatter(slots: int | str = 32, kind: int = HALF, **attributes: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        inputs: Ports = {"c": (kind, [1, 2, slots, 16]), "u": (kind, [1, 2, 4, 16]), "w": (INT, [1])}
        node = N("TensorScatter", ["c", "u", "w"], ["y"], **attributes)
        return write(path, [node], inputs, {"y": (kind, [1, 2, slots, 16])}, opset=24)

    return make


def scatter_between(before: bool) -> Callable[[Path], Path]:
    """A cache that is no input of the graph, or does not come out."""

    def make(path: Path) -> Path:
        inputs: Ports = {"c": (HALF, [1, 2, 32, 16]), "u": (HALF, [1, 2, 4, 16]), "w": (INT, [1])}
        names = ["c", "d", "y"] if before else ["c", "y", "z"]
        relu = N("Relu", [names[0] if before else "y"], [names[1] if before else "z"])
        node = N("TensorScatter", ["d" if before else "c", "u", "w"], ["y"], axis=-2)
        nodes = [relu, node] if before else [node, relu]
        return write(path, nodes, inputs, {names[2]: (HALF, [1, 2, 32, 16])}, opset=24)

    return make


def scatter_rank_3(path: Path) -> Path:
    inputs: Ports = {"c": (HALF, [1, 32, 16]), "u": (HALF, [1, 4, 16]), "w": (INT, [1])}
    node = N("TensorScatter", ["c", "u", "w"], ["y"], axis=-2)
    return write(path, [node], inputs, {"y": (HALF, [1, 32, 16])}, opset=24)


CASES: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "TopK of 3840": (lambda path: topk(path, 3840), set()),
    "TopK of 3841": (lambda path: topk(path, 3841), {"TopK"}),
    "TopK of a number from data": (k_from_data, {"data-dependent shape"}),
    "TopK of a shape": (k_from_shape, set()),
    "Unique": (unary("Unique", FLOAT), {"operator", "data-dependent shape"}),
    "BitwiseNot": (unary("BitwiseNot", INT), {"operator"}),
    "Relu": (unary("Relu", FLOAT), set()),
    "uint8 that is cast": (unary("Cast", TensorProto.UINT8, to=FLOAT), set()),
    "uint8 that is cut": (uint8_slice, {"type"}),
    "float16 and float32 added": (mixed_add, {"mixed types"}),
    "float16 to the power of float32": (mixed_pow, set()),
    "Attention": (attention(), set()),
    "Attention with a mask": (attention(mask=HALF), set()),
    "Attention with a mask of yes and no": (attention(mask=TensorProto.BOOL), set()),
    "Attention with a mask of another type": (attention(mask=FLOAT), {"mixed types"}),
    "Attention in float32": (attention(FLOAT), {"attention"}),
    "Attention of heads 8 wide": (attention(width=8), {"attention"}),
    "Attention of heads 12 wide": (attention(width=12), set()),
    "Attention of heads 256 wide": (attention(width=256), set()),
    "Attention of heads 264 wide": (attention(width=264), {"attention"}),
    "Attention with softcap": (attention(softcap=5.0), {"attention"}),
    "Attention with the type of its softmax": (attention(softmax_precision=1), {"attention"}),
    "TensorScatter": (scatter(axis=-2), set()),
    "TensorScatter in float32": (scatter(kind=FLOAT, axis=2), set()),
    "TensorScatter of any number of slots": (scatter("P", axis=-2), {"cache"}),
    "TensorScatter of whole numbers": (scatter(kind=TensorProto.INT8, axis=-2), {"cache"}),
    "TensorScatter with 3 dimensions": (scatter_rank_3, {"cache"}),
    "TensorScatter that begins again": (scatter(axis=-2, mode="circular"), {"cache"}),
    "TensorScatter into what was computed": (scatter_between(before=True), {"cache"}),
    "TensorScatter that does not come out": (scatter_between(before=False), {"cache"}),
}


@pytest.mark.parametrize("name", CASES)
def test_check_and_compiler_agree(tmp_path: Path, name: str) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    make, rules = CASES[name]
    path = make(tmp_path / "one.onnx")
    assert set(errors(path, Setting((10, 16)))) == rules
    try:
        build_plan(trt, Recipe(str(path), ()), lambda *_: None, Untimed())
        refused = False
    except EngineError:
        refused = True
    assert refused == bool(rules)


def test_table_of_operators_is_that_of_the_compiler() -> None:
    """TensorRT-RTX 1.7 is newer than every release in the table, so it has all of them, and a few that none has."""
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")

    class Log(trt.ILogger):  # type: ignore[misc]
        def log(self, *_: object) -> None:
            pass

    log = Log()
    network = trt.Builder(log).create_network(0)
    parser = trt.OnnxParser(network, log)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    has = {name for name in names if parser.supports_operator(name)}
    assert known_operators() - has == set()
    windows = {"BlackmanWindow", "HammingWindow", "HannWindow", "STFT"}
    assert has - known_operators() <= windows | {"CausalConvWithState", "LinearAttention", "Mish"}


@pytest.mark.parametrize(
    "name", ["tiny_bundle", "tiny_bundle_fp16", "tiny_bundle_bf16", "untied_bundle", "tiny_kv_bundle_fp16"]
)
def test_graphs_that_the_compiler_takes_have_no_errors(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Path = request.getfixturevalue(name)
    for graph in read_manifest(bundle).graphs:
        assert errors(bundle / graph.file, Setting((10, 3), {"R": 25, "K": 9, "S": 64, "P": 1024, "W": 64})) == []


@pytest.mark.parametrize("name", ["tiny_modern_bundle", "tiny_modern_bundle_fp16", "tiny_modern_bundle_bf16"])
def test_modern_graphs_have_no_errors_from_10_16_and_name_what_10_3_lacks(
    name: str, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(name)
    fused = {"Attention"} if name.endswith("16") else set()
    for graph in read_manifest(bundle).graphs:
        path = bundle / graph.file
        assert errors(path, Setting((10, 16))) == []
        lacking = {row.op for row in found(path, Setting((10, 3))) if row.rule == "operator"}
        of_role = {"llm": {"RMSNormalization", "RotaryEmbedding", "TensorScatter"} | fused, "vit": fused}
        assert lacking == of_role.get(graph.role, set()), graph.file
        assert "opset" in errors(path, Setting((10, 3)))


def test_attention_of_modern_graphs_becomes_one_kernel_in_half_precision(tiny_modern_bundle_fp16: Path) -> None:
    for graph in read_manifest(tiny_modern_bundle_fp16).graphs:
        assert found(tiny_modern_bundle_fp16 / graph.file, Setting((10, 16))) == []


def attention_of(shape: list[Any], count: int = 3, outputs: int = 1) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        names = ["q", "k", "v", "m", "pk", "pv"][:count]
        inputs: Ports = {name: (HALF, [4, 36] if name == "m" else shape) for name in names}
        heads: dict[str, int] = {"q_num_heads": 2, "kv_num_heads": 2} if len(shape) == 3 else {}
        gives = ["y", "a", "b"][:outputs]
        return write(path, [N("Attention", names, gives, **heads)], inputs, {"y": (HALF, shape)}, opset=24)

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (attention_of([1, 32, 32]), "Attention with 3 dimensions instead of 4"),
        (attention_of([1, 2, 32, "d"]), "Attention with heads whose width is not a fixed number"),
        (attention_of([1, 2, 4, 16], 6, 3), "Attention with a cache or scores of its own"),
    ],
)
def test_attention_that_the_documentation_rules_out_is_an_error(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    """TensorRT-RTX takes some of these, so the compiler is no witness here."""
    rows = [row for row in found(make(tmp_path / "one.onnx"), Setting((10, 16))) if row.level == "error"]
    assert [row.problem for row in rows] == [f"TensorRT has no kernel for this: {said}."]


# --- releases --------------------------------------------------------------------------------------------------------


def rms_norm(path: Path) -> Path:
    node = N("RMSNormalization", ["x", "w"], ["y"])
    return write(path, [node], {"x": (FLOAT, [4, 8])}, {"y": (FLOAT, None)}, opset=23, w=np.ones(8, np.float32))


@pytest.mark.parametrize(
    ("version", "rules"),
    [((10, 3), ["operator", "opset"]), ((10, 9), ["operator", "opset"]), ((10, 13), ["operator"]), ((10, 16), [])],
)
def test_operator_and_opset_depend_on_the_release(tmp_path: Path, version: tuple[int, int], rules: list[str]) -> None:
    path = rms_norm(tmp_path / "one.onnx")
    assert errors(path, Setting(version)) == rules
    said = [finding.problem for finding in found(path, Setting(version))]
    if version == (10, 3):
        assert said == [
            "RMSNormalization came with TensorRT 10.15, this is 10.3.",
            "The graph has opset 23, TensorRT 10.3 reads up to 20.",
        ]


def test_release_that_is_not_known_leaves_out_what_depends_on_it(tmp_path: Path) -> None:
    assert errors(rms_norm(tmp_path / "one.onnx"), Setting(None)) == []


def test_operator_of_a_vendor_is_named_with_its_domain(tmp_path: Path) -> None:
    node = N("MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft", name="four bits")
    path = write(
        tmp_path / "one.onnx",
        [node],
        {"x": (FLOAT, [4, 8])},
        {"y": (FLOAT, None)},
        domain="com.microsoft",
        w=np.ones(8),
    )
    (finding,) = [row for row in found(path) if row.rule == "operator"]
    assert (finding.node, finding.problem) == ("four bits", "com.microsoft.MatMulNBits is no operator of ONNX.")


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_letter_of_a_ranking_counts_with_its_largest_value(tmp_path: Path) -> None:
    nodes = [N("Shape", ["carrier"], ["k"]), N("TopK", ["x", "k"], ["v", "i"])]
    path = write(tmp_path / "one.onnx", nodes, {"x": (FLOAT, [9000]), "carrier": (INT, ["K"])}, {"v": (FLOAT, ["K"])})
    assert errors(path, Setting((10, 3), {"K": 3840})) == []
    assert errors(path, Setting((10, 3), {"K": 3841})) == ["TopK"]


def test_size_that_is_fed_as_a_number_is_slow(tmp_path: Path) -> None:
    path = write(
        tmp_path / "one.onnx",
        [N("TopK", ["x", "k"], ["v", "i"])],
        {"x": (FLOAT, [50]), "k": (INT, [1])},
        {"v": (FLOAT, None)},
    )
    assert [(row.level, row.rule) for row in found(path)] == [("slow", "data-dependent shape")]


@pytest.mark.parametrize("op", ["NonZero", "Compress"])
def test_output_as_long_as_the_data_say_is_found(tmp_path: Path, op: str) -> None:
    inputs: Ports = {"x": (FLOAT, [8])} if op == "NonZero" else {"x": (FLOAT, [8]), "c": (TensorProto.BOOL, [8])}
    kind = INT if op == "NonZero" else FLOAT
    path = write(tmp_path / "one.onnx", [N(op, list(inputs), ["y"])], inputs, {"y": (kind, None)})
    assert "data-dependent shape" in errors(path)


# --- types -----------------------------------------------------------------------------------------------------------


def test_type_that_the_compiler_does_not_have_is_named(tmp_path: Path) -> None:
    (finding,) = found(unary("Relu", TensorProto.DOUBLE)(tmp_path / "one.onnx"))
    assert (finding.rule, finding.problem) == ("type", "TensorRT has no float64.")


# --- attention -------------------------------------------------------------------------------------------------------


def attend(path: Path, kind: int, width: int, island: bool = False, joined: bool = False) -> Path:
    """Scale before, add a mask, softmax; optionally in float32, or over the scores of two products."""
    nodes = [
        N("Mul", ["q", "scale"], ["scaled"]),
        N("MatMul", ["scaled", "k"], ["scores"]),
        N("Add", ["scores", "mask"], ["seen"]),
    ]
    last = "seen"
    if joined:
        nodes += [N("MatMul", ["scaled", "k2"], ["more"]), N("Concat", ["seen", "more"], ["all"], axis=-1)]
        last = "all"
    if island:
        nodes.append(N("Cast", [last], ["wide"], to=FLOAT))
        last = "wide"
    nodes.append(N("Softmax", [last], ["weights"], name="softmax"))
    last = "weights"
    if island:
        nodes.append(N("Cast", [last], ["narrow"], to=kind))
        last = "narrow"
    length = 10 if joined else 5
    nodes.append(N("MatMul", [last, "v"], ["y"]))
    scale = np.array(0.1, helper.tensor_dtype_to_np_dtype(kind))
    inputs: Ports = {"q": (kind, [1, 2, 5, width]), "k": (kind, [1, 2, width, 5]), "mask": (kind, [5, 5])}
    inputs["v"] = (kind, [1, 2, length, width])
    if joined:
        inputs["k2"] = (kind, [1, 2, width, 5])
    return write(path, nodes, inputs, {"y": (kind, None)}, scale=scale)


@pytest.mark.parametrize(
    ("kind", "width", "options", "reasons"),
    [
        (HALF, 64, {}, []),
        (HALF, 72, {}, []),
        (HALF, 256, {}, []),
        (HALF, 8, {}, ["heads are 8 wide"]),
        (HALF, 264, {}, ["heads are 264 wide"]),
        (HALF, 20, {}, ["heads are 20 wide"]),
        (FLOAT, 64, {}, ["there is none for float32"]),
        (HALF, 64, {"island": True}, ["the softmax has another type"]),
        (HALF, 64, {"joined": True}, ["scores of several products"]),
        (FLOAT, 8, {"joined": True}, ["there is none for float32", "scores of several products", "heads are 8 wide"]),
    ],
)
def test_attention_that_is_not_fused_says_why(
    tmp_path: Path, kind: int, width: int, options: dict[str, bool], reasons: list[str]
) -> None:
    rows = found(attend(tmp_path / "one.onnx", kind, width, **options))
    assert len(rows) == len(reasons)
    for row, reason in zip(rows, reasons, strict=True):
        assert row.problem.startswith(f"This attention does not become one kernel: {reason}")
    assert all((row.level, row.rule, row.node) == ("slow", "attention", "softmax") for row in rows)


def test_softmax_that_is_no_attention_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "one.onnx", [N("Softmax", ["x"], ["y"])], {"x": (FLOAT, [4, 4])}, {"y": (FLOAT, None)})
    assert found(path) == []


def test_onnx_runtime_runs_what_onnx_allows(tmp_path: Path) -> None:
    path = unary("Unique", FLOAT)(tmp_path / "one.onnx")
    assert RULES["ort"] == ()
    assert list(check_graph(read_nodes(path, "x"), "ort", Setting())) == []


def test_long_chain_of_sizes_is_followed(tmp_path: Path) -> None:
    """Thousands of nodes between a shape, or a number from data, and where it is a size."""
    for source, expected in (
        (N("Shape", ["x"], ["n0"]), []),
        (N("ReduceSum", ["m"], ["n0"]), ["data-dependent shape"]),
    ):
        chain = [N("Add", [f"n{i}", "zero"], [f"n{i + 1}"]) for i in range(3000)]
        nodes = [source, *chain, N("Expand", ["x", "n3000"], ["y"])]
        inputs: Ports = {"x": (FLOAT, [8]), "m": (INT, [8])}
        path = write(tmp_path / "one.onnx", nodes, inputs, {"y": (FLOAT, None)}, zero=np.zeros(1, np.int64))
        assert errors(path) == expected


@pytest.mark.parametrize(
    "nodes",
    [
        [N("Add", ["y", "x"], ["y"])],
        [N("Add", ["later", "x"], ["y"]), N("Relu", ["x"], ["later"])],
        [N("TopK", ["x"], ["y"])],
        [N("Softmax", [], ["y"])],
        [N("Relu", ["x"], [])],
    ],
)
def test_graph_that_onnx_does_not_allow_is_refused(tmp_path: Path, nodes: list[Any]) -> None:
    path = write(tmp_path / "one.onnx", nodes, {"x": (FLOAT, [8])}, {"y": (FLOAT, [8])})
    with pytest.raises(BundleError, match="is no ONNX graph"):
        read_nodes(path, "one.onnx")
