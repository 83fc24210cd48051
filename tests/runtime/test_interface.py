"""Manifests whose parts contradict each other are refused when the bundle is opened."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import Manifest, Piece, Precision
from stc_runtime import Bundle
from stc_runtime.interface import check_interface

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    return Bundle.open(tiny_bundle).manifest


def graph(manifest: Manifest, role: str, variant: str, **changes: Any) -> Manifest:
    graphs = [
        replace(g, **{k: v(getattr(g, k)) for k, v in changes.items()}) if (g.role, g.variant) == (role, variant) else g
        for g in manifest.graphs
    ]
    return replace(manifest, graphs=tuple(graphs))


def in_precision(manifest: Manifest, precision: Precision) -> Manifest:
    graphs = tuple(replace(graph, precision=precision) for graph in manifest.graphs)
    return replace(manifest, precision=precision, graphs=graphs)


def vision(manifest: Manifest, **changes: int) -> Manifest:
    return replace(manifest, dims=replace(manifest.dims, vision=replace(manifest.dims.vision, **changes)))


def text(manifest: Manifest, **changes: float) -> Manifest:
    return replace(manifest, dims=replace(manifest.dims, text=replace(manifest.dims.text, **changes)))


def prompt(manifest: Manifest, **changes: tuple[Piece, ...]) -> Manifest:
    return replace(manifest, prompt=replace(manifest.prompt, **changes))


CASES: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "zero": (lambda m: vision(m, patch_size=0), "a size in dims is not positive"),
    "no theta": (lambda m: text(m, rope_theta=0.0), "a size in dims is not positive"),
    "vision heads": (lambda m: vision(m, heads=3), "heads do not divide"),
    "text heads": (lambda m: text(m, kv_heads=3), "heads do not divide"),
    "odd head": (lambda m: text(m, head_dim=15), "heads do not divide"),
    "frame size": (
        lambda m: replace(m, preprocess=replace(m.preprocess, size=71)),
        "frames are resized to 71, the model sees 70",
    ),
    "image size": (lambda m: vision(m, image_size=84), "frames are resized to 70, the model sees 84"),
    "width": (lambda m: vision(m, width=64), '"graphs/cacher_gate.onnx" declares the'),
    "layers": (lambda m: text(m, layers=3), '"graphs/llm.onnx" declares the input key_2_in as nothing'),
    "precision": (lambda m: in_precision(m, "fp16"), "expected float16"),
    "precision of a graph": (
        lambda m: graph(m, "llm", "default", precision=lambda _: "fp16"),
        '"graphs/llm.onnx" computes in fp16, what graphs hand each other is fp32',
    ),
    "input gone": (
        lambda m: graph(m, "vit", "gate", inputs=lambda ports: ports[1:]),
        "declares the input patch_embeddings as nothing, expected float32 [25, 32]",
    ),
    "input twice as large": (
        lambda m: graph(m, "llm", "default", inputs=lambda p: (replace(p[0], shape=(2, "S", 48)), *p[1:])),
        "declares the input inputs_embeds as float32 [2, 'S', 48], expected float32 [1, 'S', 48]",
    ),
    "state that does not come out": (
        lambda m: graph(m, "vit", "shared", outputs=lambda ports: ports[:-1]),
        "declares the output mlp_2_out as nothing",
    ),
    "output more": (
        lambda m: graph(m, "pruner", "none", outputs=lambda p: (*p, replace(p[0], name="more"))),
        "declares the output more as float32 [9, 48], expected nothing",
    ),
    "history that is not declared": (
        lambda m: replace(m, pruners=tuple(replace(p, history="none") for p in m.pruners)),
        '"graphs/pruner.stc_gaussian.onnx" declares the',
    ),
    "flavour": (
        lambda m: replace(m, flavour="modern"),
        "\"graphs/llm.onnx\" declares the input key_0_in as float32 [1, 2, 'P', 16], expected float32 [1, 2, 768, 16]",
    ),
    "vocabulary": (lambda m: text(m, vocab=500), "500"),
    "table": (
        lambda m: replace(m, tables=(replace(m.tables[0], shape=(512, 47)), *m.tables[1:])),
        'the table "embed" is float32 [512, 47]',
    ),
    "table type": (
        lambda m: replace(m, tables=(m.tables[0], replace(m.tables[1], dtype="float16"))),
        'the table "newline" is float16 [48]',
    ),
    "prompt token": (lambda m: prompt(m, next_turn=(Piece(token=512),)), "outside the vocabulary of 512"),
    "two in a piece": (lambda m: prompt(m, before_video=(Piece(text="a", token=1),)), "not exactly one of"),
    "nothing in a piece": (lambda m: prompt(m, before_video=(Piece(),)), "not exactly one of"),
    "no question": (lambda m: prompt(m, after_video=(Piece(text="a"),)), "not exactly one of"),
    "two questions": (lambda m: prompt(m, after_video=(Piece(question=True),) * 2), "not exactly one of"),
}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_contradiction_raises_and_names_what_differs(
    manifest: Manifest, case: tuple[Callable[[Manifest], Manifest], str]
) -> None:
    change, expected = case
    with pytest.raises(BundleError) as caught:
        check_interface(change(manifest), "my.stc")
    assert caught.value.problem.startswith('The manifest of "my.stc" contradicts itself: ')
    assert expected in caught.value.problem
    assert caught.value.fix == "Build the bundle again."


@pytest.mark.parametrize(
    "name",
    [
        "tiny_bundle",
        "tiny_bundle_fp16",
        "untied_bundle",
        "siglip_bundle",
        "tiny_modern_bundle",
        "tiny_modern_bundle_fp16",
        "tiny_bundle_bf16",
        "tiny_modern_bundle_bf16",
        "tiny_kv_bundle_fp16",
    ],
)
def test_built_bundles_do_not_contradict_themselves(name: str, request: pytest.FixtureRequest) -> None:
    check_interface(Bundle.open(request.getfixturevalue(name)).manifest, name)


@pytest.mark.parametrize("role", ["cacher_gate", "llm"])
def test_graph_that_is_missing_raises_when_it_is_asked_for(manifest: Manifest, role: str) -> None:
    less = replace(manifest, graphs=tuple(graph for graph in manifest.graphs if graph.role != role))
    with pytest.raises(BundleError, match=f"The bundle has no {role} graph"):
        less.graph(role)  # type: ignore[arg-type]
