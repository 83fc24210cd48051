"""Look through an ONNX file before anything runs it: nothing but plain operators, and weights where they are declared.

An ONNX file can name any file of the machine as its weights, bring functions and operators of its own, and hold graphs
inside of graphs. Ours never do. So this reader walks through the file (protobuf: numbered fields, each with its length)
and refuses all of that. It is no check that the graph computes something sensible: the backend and the declared
interface see to that. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_bytes
from stc_export.spec.manifest import GraphEntry

#: Graphs without their weights; that of a 100-layer model has a few MB.
MAX_GRAPH_BYTES = 64 * 1024 * 1024

_OWN_DOMAINS = ("", "ai.onnx")
#: Operators of ONNX Runtime that our graphs use, by their domain: weights of few bits.
_OTHERS: Mapping[str, frozenset[str]] = {"com.microsoft": frozenset({"MatMulNBits"})}
#: Kinds of field, by the lowest three bits of its key.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: The most bytes of a number.
_MAX_VARINT = 10
_SHOWN = 80

Value = int | memoryview
#: Number of a field -> what looks at its content.
Rules = Mapping[int, Callable[[memoryview], None]]


class _GraphError(ValueError):
    """Why a file is refused, as part of a sentence."""


def check_graph_file(root: Path, graph: GraphEntry) -> None:
    """Check that a graph has only operators of kinds that ours have, and weights only inside of its declared files.

    Args:
        root: Directory of the bundle, whose files were checked against the manifest.
        graph: The graph.

    Raises:
        BundleError: It is not so, or the file is damaged.
    """
    folder = graph.file.rpartition("/")[0]
    sizes = {
        path.rpartition("/")[2]: (root / path).stat().st_size
        for path in graph.weights
        if path.rpartition("/")[0] == folder
    }
    try:
        _check_model(memoryview(read_bytes(root / graph.file, MAX_GRAPH_BYTES)), sizes)
    except ValueError as error:
        raise BundleError(
            f'"{graph.file}" in "{root}" is not a graph that is run here: {error}.',
            "Build the bundle again, from a checkpoint that you trust.",
        ) from error


def _check_model(data: memoryview, sizes: Mapping[str, int]) -> None:
    def tensor(data: memoryview) -> None:
        _check_external(data, sizes)

    attribute: Rules = {
        5: tensor,
        6: _refuse("an operator with a graph inside, such as If or Loop"),
        10: tensor,
        11: _refuse("an operator with graphs inside"),
        22: _refuse("a sparse tensor"),
        23: _refuse("sparse tensors"),
    }

    def node(data: memoryview) -> None:
        _check_operator(data)
        _check(data, {5: lambda data: _check(data, attribute)})

    graph: Rules = {
        1: node,
        5: tensor,
        15: _refuse("a sparse tensor"),
    }
    _check(
        data,
        {
            7: lambda data: _check(data, graph),
            8: lambda data: _check(data, {1: _check_import}),
            20: _refuse("instructions for training"),
            25: _refuse("a function of its own"),
        },
    )


def _check(data: memoryview, rules: Rules) -> None:
    for number, value in _fields(data):
        rule = rules.get(number)
        if rule is None:
            continue
        if isinstance(value, int):
            raise _GraphError(f"field {number} is a number where ONNX has none")
        rule(value)


def _refuse(what: str) -> Callable[[memoryview], None]:
    def refuse(_data: memoryview) -> None:
        raise _GraphError(f"it has {what}")

    return refuse


def _check_import(domain: memoryview) -> None:
    name = _text(domain)
    if name not in _OWN_DOMAINS and name not in _OTHERS:
        raise _GraphError(f'it has operators of "{name}", which are not ONNX\'s own')


def _check_operator(node: memoryview) -> None:
    """Check which operator of whom it is; a node that says either twice must be right in any reading."""
    fields = [
        (number, _text(value)) for number, value in _fields(node) if not isinstance(value, int) and number in (4, 7)
    ]
    operators = [text for number, text in fields if number == 4]
    for domain in (text for number, text in fields if number == 7 and text not in _OWN_DOMAINS):
        if not set(operators) <= _OTHERS.get(domain, frozenset()):
            raise _GraphError(f'it has operators of "{domain}", which are not ONNX\'s own')


def _check_external(tensor: memoryview, sizes: Mapping[str, int]) -> None:
    """Check what a tensor says of a file that holds it, whether it is said to be in use or not."""
    entries = [_entry(value) for number, value in _fields(tensor) if number == 13 and not isinstance(value, int)]
    place = dict(entries)
    if not entries:
        return
    if len(place) < len(entries):
        raise _GraphError("a weight says twice where it lies")
    name = place.get("location", "")
    if name not in sizes:
        raise _GraphError(f'it has weights in "{name[:_SHOWN]}", which the manifest does not give it')
    offset, length = (_whole(place.get(key, "0")) for key in ("offset", "length"))
    if offset + length > sizes[name]:
        raise _GraphError(f'a weight lies outside of "{name}" (offset {offset}, length {length})')


def _entry(data: memoryview) -> tuple[str, str]:
    texts = {number: _text(value) for number, value in _fields(data) if not isinstance(value, int)}
    return texts.get(1, ""), texts.get(2, "")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _GraphError(f'a weight lies at "{text[:_SHOWN]}", expected a whole number')
    return int(text)


def _text(data: memoryview) -> str:
    return bytes(data).decode(errors="replace")


def _fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """Yield number and content of each field of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if key >> 32:  # some parsers would leave out the upper bits, and see another field
            raise _GraphError("it is damaged, or no ONNX file")
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _GraphError("it is damaged, or no ONNX file")
        if size > len(data) - place:
            raise _GraphError("it is cut off, or says a wrong length")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(data[place : place + _MAX_VARINT]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, place + index + 1
    raise _GraphError("it is cut off, or no ONNX file")
