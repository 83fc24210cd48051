"""Attacks with the graphs, the tokenizer and the extras of a bundle, all of them with sizes and digests that agree."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, load, save

from tests.hostile.attack import USERS, Attack, manifest, setting, signed, writing

_GATE = "graphs/cacher_gate.onnx"
_REFUSED = "is not a graph that is run here: "
_PLACES = {
    "up": "../../secret.bin",
    "absolute": "/etc/hostname",
    "backslash": "..\\secret.bin",
    "empty": "",
    "folder": ".",
    "NUL": "vision.weights\0",
    "70,000 characters": "x" * 70_000,
    "other file of the bundle": "../tokenizer.json",
    "weights of another graph": "llm.weights",
    "memory of the process": "*/_ORT_MEM_ADDR_/*",
    "device": "/dev/zero",
}


def _model(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Change the graph of the gate."""

    def act(root: Path) -> None:
        model = load(root / _GATE, load_external_data=False)
        change(model)
        save(model, root / _GATE)

    return signed(act)


def _external(**values: str) -> Callable[[Path], None]:
    """Change where the first weight that lies in a file is said to lie."""

    def change(model: Any) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
        for entry in tensor.external_data:
            entry.value = values.get(entry.key, entry.value)

    return _model(change)


def _place_twice(model: Any) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    tensor.external_data.add(key="location", value="vision.weights")


def _place_of_a_constant(model: Any) -> None:
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))


def _branch(operator: str, attribute: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        inner = helper.make_graph([], "inner", [], [])
        model.graph.node.append(helper.make_node(operator, [], ["hidden"], **{attribute: inner}))

    return change


def _sparse(model: Any) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))


def _function(model: Any) -> None:
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [], opset))


def _domain(model: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"


def _import(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("evil.example", 1))


def _operator(model: Any) -> None:
    model.graph.node[0].op_type = "Exec"


def _opset(model: Any) -> None:
    model.opset_import[0].version = 9999


def _rename_input(model: Any) -> None:
    model.graph.input[0].name = "x"


def _retype_output(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _reshape_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**62


def _more_inputs(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _huge_weight(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [2**62, 2**62]


def _garbled(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return signed(lambda root: (root / _GATE).write_bytes(change((root / _GATE).read_bytes())))


def _message(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2, len(data)]) + data


_HIDDEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "operator of ONNX Runtime's own": (_domain, 'it has operators of "com.microsoft"'),
    "foreign operators": (_import, 'it has operators of "evil.example"'),
    "If": (_branch("If", "then_branch"), "it has an operator with a graph inside"),
    "Loop": (_branch("Loop", "body"), "it has an operator with a graph inside"),
    "Scan": (_branch("Scan", "body"), "it has an operator with a graph inside"),
    "sparse weight": (_sparse, "it has a sparse tensor"),
    "function": (_function, "it has a function of its own"),
    "training": (lambda model: model.training_info.add(), "it has instructions for training"),
    "place said twice": (_place_twice, "a weight says twice where it lies"),
    "constant in a file": (_place_of_a_constant, 'it has weights in "/etc/hostname"'),
}
_BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda data: data[:-100], "it is cut off, or says a wrong length"),
    "length that lies": (lambda data: data + b"\x3a\xff\xff\xff\xff\x0f", "it is cut off, or says a wrong length"),
    "number without end": (lambda data: data + b"\xff" * 20, "it is cut off, or no ONNX file"),
    "field of more than 32 bits": (
        lambda data: data + b"\xba\x80\x80\x80\x80\x01\x00",
        "it is damaged, or no ONNX file",
    ),
    "group": (lambda data: data + b"\x0b", "it is damaged, or no ONNX file"),
    "number in place of a graph": (lambda data: data + b"\x38\x01", "field 7 is a number where ONNX has none"),
    "second graph": (
        lambda data: data + _message(7, _message(5, _message(13, _message(1, b"location") + _message(2, b"/dev/mem")))),
        'it has weights in "/dev/mem"',
    ),
    "JSON": (lambda _: b'{"graph": []}', "it is damaged, or no ONNX file"),
    "pickle": (lambda _: b"\x80\x04cos\nsystem\n(S'true'\ntR.", "it is "),
}
_OPENED: dict[str, tuple[Callable[[Any], object], str]] = {
    "unknown operator": (_operator, f'ONNX Runtime cannot open "{_GATE}"'),
    "unknown opset": (_opset, f'ONNX Runtime cannot open "{_GATE}"'),
    "other input": (_rename_input, f'"{_GATE}"'),
    "other type": (_retype_output, f'"{_GATE}"'),
    "input of 2^62": (_reshape_input, f'"{_GATE}"'),
    "input more": (_more_inputs, f'"{_GATE}" has more, which the manifest does not declare'),
    "weight of 2^124": (_huge_weight, f'ONNX Runtime cannot open "{_GATE}"'),
}
_TOKENIZERS: dict[str, bytes] = {
    "nothing": b"",
    "no tokenizer": b"{}",
    "list": b"[]",
    "100,000 levels": b'{"added_tokens": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not UTF-8": b'{"added_tokens": "\xff"}',
    "unknown model": b'{"added_tokens": [], "model": {"type": "Exec", "code": "import os"}}',
    "tokens that are none": b'{"added_tokens": [1, null]}',
    "negative ids": b'{"added_tokens": [{"id": -5, "content": "a", "special": true}], "model": {"type": "BPE"}}',
    "pattern without end": b'{"added_tokens": [], "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((((("}, '
    b'"behavior": "Isolated", "invert": false}, "model": {"type": "BPE", "vocab": {}, "merges": []}}',
}
_GOLDENS: dict[str, Callable[[Path], object]] = {
    "shape of 2^62": setting("goldens/index.json", cases__0__inputs__0__shape=[2**62]),
    "shape below zero": setting("goldens/index.json", cases__0__inputs__0__shape=[-1]),
    "offset outside": setting("goldens/index.json", cases__0__outputs__0__offset_bytes=2**62),
    "stride of zero": setting("goldens/index.json", cases__0__outputs__0__stride=0),
    "not JSON": writing("goldens/index.json", b"\xff"),
    "100,000 levels": writing("goldens/index.json", b"[" * 100_000),
    "no data": lambda root: os.truncate(root / "goldens/data.bin", 0),
}


def _record(content: bytes) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        (root / "engines/0123456789abcdef").mkdir(parents=True)
        (root / "engines/0123456789abcdef/seal.json").write_bytes(content)

    return act


def _record_pipe(root: Path) -> None:
    (root / "engines/x").mkdir(parents=True)
    os.mkfifo(root / "engines/x/seal.json")


def _record_linked(root: Path) -> None:
    (root.parent / "elsewhere").mkdir()
    (root / "engines").symlink_to(root.parent / "elsewhere")


GRAPHS = (
    *(
        Attack(f"weights in a file: {name}", _external(location=place), f'{_REFUSED}it has weights in "', USERS)
        for name, place in _PLACES.items()
    ),
    Attack("weight behind the end of its file", _external(offset="315392"), 'outside of "vision.weights"', USERS),
    Attack("weight larger than its file", _external(length=str(2**62)), 'outside of "vision.weights"', USERS),
    Attack("weight at -4096", _external(offset="-4096"), 'lies at "-4096", expected a whole number', USERS),
    Attack("weight at 1e3", _external(offset="1e3"), 'lies at "1e3", expected a whole number', USERS),
    Attack("weight at 10^5000", _external(offset="1" + "0" * 5000), "expected a whole number", USERS),
    *(Attack(f"graph with: {name}", _model(act), _REFUSED + said, USERS) for name, (act, said) in _HIDDEN.items()),
    *(Attack(f"graph is: {name}", _garbled(act), _REFUSED + said, USERS) for name, (act, said) in _BYTES.items()),
    Attack(
        "graph of 65 MiB",
        signed(lambda root: os.truncate(root / _GATE, 65 << 20)),
        "it is larger than any of its kind",
        USERS,
    ),
    *(Attack(f"graph runs: {name}", _model(act), said, ("run",)) for name, (act, said) in _OPENED.items()),
    Attack("graph checked: unknown operator", _model(_operator), "is no ONNX graph (", ("check",)),
    Attack("graph checked: unknown opset", _model(_opset), "is no ONNX graph (", ("check",)),
    *(
        Attack(
            f"tokenizer is: {name}", signed(writing("tokenizer.json", data)), 'The tokenizer "tokenizer.json"', ("ask",)
        )
        for name, data in _TOKENIZERS.items()
    ),
    *(Attack(f"goldens: {name}", signed(act), "The goldens of ", ("goldens",)) for name, act in _GOLDENS.items()),
    Attack("record of engines: not JSON", _record(b"\xff{"), "unlisted engines/", ("inspect",), 0),
    Attack("record of engines: 100,000 levels", _record(b"[" * 100_000), "unlisted engines/", ("inspect",), 0),
    Attack("record of engines: pipe", _record_pipe, "unlisted engines/x/seal.json", ("inspect",), 0),
    Attack("engines are a link", _record_linked, "unlisted engines", ("inspect",), 0),
    Attack(
        "answer of 2^62 tokens",
        manifest("policy.memory.answer_tokens", 2**62),
        f"memory.answer_tokens is {2**62}, the model's context is 1024",
        ("run",),
        4,
    ),
)
