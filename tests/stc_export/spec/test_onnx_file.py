"""The reader of ONNX files, against graphs that the onnx package writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import GraphEntry
from stc_export.spec.onnx_file import check_graph_file

FILE = "graphs/a.onnx"
SIZE = 4096
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle with one weight file."""
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs/a.weights").write_bytes(bytes(SIZE))
    return tmp_path


def weight(location: str, offset: int = 0, length: int = 16) -> Any:
    tensor = TensorProto(name=f"w{offset}", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(*weights: Any) -> Any:
    """A graph with a weight inside and others in files."""
    inside = numpy_helper.from_array(numpy_helper.to_array(helper.make_tensor("c", TensorProto.INT64, [1], [7])), "c")
    node = helper.make_node("Identity", ["c"], ["y"], name="n", doc_string="\xff" * 300)
    output = helper.make_tensor_value_info("y", TensorProto.INT64, [1])
    return helper.make_model(helper.make_graph([node], "g", [], [output], initializer=[inside, *weights]))


def problem_of(root: Path, data: bytes) -> str | None:
    """Return why a file is refused."""
    (root / FILE).write_bytes(data)
    try:
        check_graph_file(root, GraphEntry("llm", "default", FILE, ("graphs/a.weights",), (), (), "fp32"))
    except BundleError as error:
        return error.problem.partition("is not a graph that is run here: ")[2]
    return None


@many
@given(offset=st.integers(0, 2 * SIZE), length=st.integers(0, 2 * SIZE))
def test_weight_is_accepted_exactly_where_its_file_has_bytes(root: Path, offset: int, length: int) -> None:
    problem = problem_of(root, model(weight("a.weights", offset, length)).SerializeToString())
    inside = f'a weight lies outside of "a.weights" (offset {offset}, length {length}).'
    assert problem == (None if offset + length <= SIZE else inside)


@pytest.mark.parametrize("location", ["b.weights", "./a.weights", "../graphs/a.weights", "", "A.WEIGHTS", "a.weights "])
def test_weight_in_any_other_file_is_refused(root: Path, location: str) -> None:
    problem = problem_of(root, model(weight("a.weights"), weight(location, 32)).SerializeToString())
    assert problem == f'it has weights in "{location}", which the manifest does not give it.'


@many
@given(data=st.binary(max_size=300))
def test_any_bytes_are_accepted_or_refused(root: Path, data: bytes) -> None:
    problem = problem_of(root, data)
    assert problem is None or problem


@many
@given(place=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_any_byte_changed_never_moves_a_weight_out_of_its_file(root: Path, place: int, mask: int) -> None:
    good = model(weight("a.weights", 64)).SerializeToString()
    place %= len(good)
    data = good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :]
    if problem_of(root, data) is not None:
        return
    changed = helper.make_model(helper.make_graph([], "", [], []))
    try:
        changed.ParseFromString(data)
    except Exception:  # what protobuf refuses is no danger
        return
    found = [{e.key: e.value for e in tensor.external_data} for tensor in changed.graph.initializer]
    assert all(entry.get("location", "a.weights") == "a.weights" for entry in found)
    assert all(int(entry.get("offset", 0)) + int(entry.get("length", 0)) <= SIZE for entry in found)


def test_file_that_is_too_large_is_not_read(root: Path) -> None:
    with (root / FILE).open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(BundleError, match="larger than any of its kind"):
        check_graph_file(root, GraphEntry("llm", "default", FILE, (), (), (), "fp32"))


def rounded(*names: str, domain: str = "com.microsoft") -> bytes:
    """A graph with one more node, which states each of the names as its operator."""
    plain = model()
    plain.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    plain.graph.node.append(helper.make_node(names[0], ["c"], ["z"], domain=domain))
    data: bytes = plain.SerializeToString()
    for name in names[1:]:  # field 4 once more, which protobuf takes in place of the first
        whole = plain.graph.node[1].SerializeToString()
        longer = whole + bytes([4 << 3 | 2, len(name)]) + name.encode()
        plain.graph.ClearField("node")
        graph = plain.graph.SerializeToString() + bytes([1 << 3 | 2, len(longer)]) + longer
        plain.ClearField("graph")
        data = plain.SerializeToString() + bytes([7 << 3 | 2]) + _varint(len(graph)) + graph
    return data


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def test_operator_for_weights_of_few_bits_is_the_only_one_of_another_domain(root: Path) -> None:
    assert problem_of(root, rounded("MatMulNBits")) is None
    foreign = 'it has operators of "{}", which are not ONNX\'s own.'
    assert problem_of(root, rounded("FusedMatMul")) == foreign.format("com.microsoft")
    assert problem_of(root, rounded("MatMulNBits", domain="evil.example")) == foreign.format("evil.example")


@pytest.mark.parametrize("names", [("MatMulNBits", "FusedMatMul"), ("FusedMatMul", "MatMulNBits")])
def test_operator_that_is_named_twice_must_be_allowed_by_both_names(root: Path, names: tuple[str, str]) -> None:
    assert problem_of(root, rounded(*names)) == 'it has operators of "com.microsoft", which are not ONNX\'s own.'
