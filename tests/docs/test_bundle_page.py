"""docs/bundle.md and the decisions about graphs against a real bundle."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from pathlib import Path
from typing import Any

import onnx
import pytest

from stc_export.spec.manifest import MANIFEST_NAME, GraphEntry, Manifest, manifest_from_text, read_manifest
from tests.docs.pages import DOCS, blocks, code, read, table_rows

PAGE = DOCS / "bundle.md"
#: Dimensions that stay letters in a manifest.
DYNAMIC = frozenset("RKWPS")


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return manifest_from_text((tiny_bundle / MANIFEST_NAME).read_text(encoding="utf-8"), "tiny")


def section(title: str) -> str:
    return read(PAGE).partition(f"\n{title}\n")[2].partition("\n#")[0]


def documented_fields(hint: Any, prefix: str = "") -> set[str]:
    """Names of all fields of a dataclass and of those inside it; sizes are documented as ``dims.vision``."""
    names: set[str] = set()
    for name, inner in typing.get_type_hints(hint).items():
        inside = [part for part in (inner, *typing.get_args(inner)) if dataclasses.is_dataclass(part)]
        names.add(name)
        for part in inside:
            if name != "policy":  # has its own page
                names |= documented_fields(part)
    return names


def test_tree_on_the_page_is_that_of_a_real_bundle(tiny_bundle: Path) -> None:
    tree = blocks(PAGE, "text")[0]
    shown = {match[1] for match in re.finditer(r"── (\S+)", tree)} - {"graphs/", "goldens/"}
    assert shown == {path.name for path in tiny_bundle.rglob("*") if path.is_file()}


def test_manifest_table_names_every_key() -> None:
    words = set(re.findall(r"\w+", section("## Manifest")))
    assert documented_fields(Manifest) - words == set()


def test_manifest_table_has_one_row_per_key(tiny_bundle: Path) -> None:
    rows = [code(row[0])[0].partition(".")[0] for row in table_rows(section("## Manifest"))]
    assert set(rows) == json.loads((tiny_bundle / MANIFEST_NAME).read_text(encoding="utf-8")).keys()


def test_graph_interfaces_on_the_page_are_those_of_a_real_bundle(manifest: Manifest) -> None:
    for graph in manifest.graphs:
        title = f"### {graph.role}" if graph.variant == "default" else f"### {graph.role} / {graph.variant}"
        check_section(title, graph, manifest)


def test_modern_graph_on_the_page_is_that_of_a_real_bundle(tiny_modern_bundle: Path) -> None:
    """Only ``llm`` has another interface, and its P is a number: 1,024, like no other size."""
    modern = manifest_from_text((tiny_modern_bundle / MANIFEST_NAME).read_text(encoding="utf-8"), "tiny")
    for graph in modern.graphs:
        if graph.role != "llm":
            check_section(f"### {graph.role} / {graph.variant}".removesuffix(" / default"), graph, modern)
    graph = modern.graph("llm")
    ports = [
        tuple(dataclasses.replace(p, shape=tuple("P" if d == 1024 else d for d in p.shape)) for p in side)
        for side in (graph.inputs, graph.outputs)
    ]
    lettered = dataclasses.replace(graph, inputs=ports[0], outputs=ports[1])
    check_section("### llm, flavour modern", lettered, modern)


def test_graphs_that_are_built_when_asked_are_on_the_page(tiny_bundle: Path, tiny_whole_bundle: Path) -> None:
    plain, whole = read_manifest(tiny_bundle), read_manifest(tiny_whole_bundle)
    check_section("### pruner / visionzip", whole.graph("pruner", "visionzip"), whole)
    for graph in whole.graphs:
        if graph.role == "vit":
            title = graph.variant.partition(".")[0]
            received = tuple(port for port in graph.outputs if port not in plain.graph("vit", title).outputs)
            check_section("### vit, with attention", dataclasses.replace(graph, inputs=(), outputs=received), whole)
        if graph.role == "cacher_gate":
            check_section("### cacher_gate", graph, whole)


def check_section(title: str, graph: GraphEntry, manifest: Manifest) -> None:
    text = section(title)
    if "The interface of" in text:
        text = section(f"### {code(text)[0]}")
    rows = table_rows(text)
    expected = {
        (direction, re.sub(r"_\d+_", "_{l}_", port.name), port.dtype, port.shape)
        for direction, ports in (("in", graph.inputs), ("out", graph.outputs))
        for port in ports
    }
    found = {(row[0], code(row[1])[0], row[2], shape(row[3], manifest, graph.variant)) for row in rows}
    assert {(d, n, "float32" if t == "float" else t, s) for d, n, t, s in found} == expected


def shape(cell: str, manifest: Manifest, variant: str) -> tuple[int | str, ...]:
    vision, text = manifest.dims.vision, manifest.dims.text
    widths = {row.method: row.history_width for row in manifest.pruners}
    letters = {
        "I": vision.image_size,
        "T": vision.tokens,
        "C": vision.width,
        "H": vision.heads,
        "M": vision.visual_tokens,
        "D": text.width,
        "G": text.kv_heads,
        "d": text.head_dim,
        "V": text.vocab,
        "E": widths.get(variant, 0),
        "C/H": vision.head_dim,
    }
    return tuple(
        part if part in DYNAMIC else letters[part] if part in letters else int(part)
        for part in cell.strip("[]").split(", ")
    )


def test_weight_files_on_the_page_are_read_by_the_graphs_named_there(manifest: Manifest) -> None:
    users: dict[str, set[str]] = {}
    for graph in manifest.graphs:
        for path in graph.weights:
            users.setdefault(path.removeprefix("graphs/"), set()).add(graph.role)
    assert users == {
        "vision.weights": {"cacher_gate", "vit"},
        "projector.weights": {"pruner"},
        "llm.weights": {"llm"},
        "embed.weights": {"llm"},
    }


def load(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load(bundle / "graphs" / name, load_external_data=False)


def places(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    found = {}
    for tensor in model.graph.initializer:
        entry = {item.key: item.value for item in tensor.external_data}
        if entry:
            found[tensor.name] = (int(entry["offset"]), int(entry["length"]))
    return found


def test_every_linear_layer_is_a_gemm_with_transb(tiny_bundle: Path) -> None:
    for file in (tiny_bundle / "graphs").glob("*.onnx"):
        model = load(tiny_bundle, file.name)
        gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
        assert gemms
        assert all({a.name: a.i for a in node.attribute}.get("transB") == 1 for node in gemms)
        matrices = {t.name for t in model.graph.initializer if len(t.dims) == 2 and t.external_data}
        readers = {node.op_type for node in model.graph.node if matrices & set(node.input)}
        assert readers <= {"Gemm", "Add", "MatMul"}  # Add: positions; MatMul: the small pooling matrix


def test_parts_of_a_fused_weight_are_the_same_bytes(tiny_bundle: Path, manifest: Manifest) -> None:
    whole, parts = places(load(tiny_bundle, "vit.gate.onnx")), places(load(tiny_bundle, "vit.per_layer.onnx"))
    for layer in range(manifest.dims.vision.layers):
        for kind in ("weight", "bias"):
            offset, length = whole[f"layers.{layer}.qvk.{kind}"]
            first, second = (parts[f"layers.{layer}.{part}.{kind}"] for part in ("qv", "k"))
            assert first == (offset, length * 2 // 3)
            assert second == (offset + first[1], length // 3)


def test_tied_head_is_the_embedding_table(tiny_bundle: Path, manifest: Manifest) -> None:
    table = manifest.table("embed")
    head = places(load(tiny_bundle, "llm.onnx"))["head.weight"]
    assert head == (table.offset_bytes, math.prod(table.shape) * 4)


def test_llm_graph_reads_its_past_in_products_only(tiny_bundle: Path) -> None:
    """Anything else, a Concat or a Gather, would copy the whole memory in every step."""
    graph = load(tiny_bundle, "llm.onnx").graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for port in (port.name for port in graph.input if port.name.startswith(("key_", "value_"))):
        kinds, names = [], [port]
        while names:
            nodes = readers.get(names.pop(), [])
            kinds += [node.op_type for node in nodes]
            names += [node.output[0] for node in nodes if node.op_type in {"Squeeze", "Reshape", "Transpose"}]
        views = [kind for kind in kinds if kind != "Shape"]
        assert views == (["Transpose", "MatMul"] if port.startswith("key_") else ["MatMul"])
