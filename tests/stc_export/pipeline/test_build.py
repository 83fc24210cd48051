"""Whole builds: what they write, the parity that they pass or not, and what they replace."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stc_export.exporter import weights
from stc_export.pipeline import build as module
from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest, BuildResult
from stc_export.spec.errors import ParityError, UsageError
from stc_export.spec.manifest import MANIFEST_NAME
from stc_export.spec.policy import named_policies
from stc_runtime.bundle import Bundle
from stc_runtime.goldens import Goldens
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# --- what is written -------------------------------------------------------------------------------------------------


def test_build_again_gives_the_same_bytes(build: Callable[..., BuildResult], tiny_bundle: Path) -> None:
    result = build()
    assert quick.contents(result.bundle) == quick.contents(tiny_bundle)
    assert Bundle.open(result.bundle).manifest == result.manifest


def test_build_lists_every_file_and_nothing_else(build: Callable[..., BuildResult]) -> None:
    result = build()
    listed = {entry.path: (entry.size_bytes, entry.sha256) for entry in result.manifest.files}
    found = quick.contents(result.bundle)
    del found[MANIFEST_NAME]
    assert listed == {path: ((result.bundle / path).stat().st_size, digest) for path, digest in found.items()}
    assert [entry.path for entry in result.manifest.files] == sorted(listed)


def test_build_says_what_it_was_made_from(build: Callable[..., BuildResult], tiny_checkpoint: Path) -> None:
    policy = named_policies()["paper"]
    manifest = build(policy=policy, target="cuda", precision="fp32").manifest
    assert (manifest.target, manifest.precision, manifest.flavour, manifest.policy) == ("cuda", "fp32", "base", policy)
    model = manifest.model
    assert (model.name, model.family, model.trained) == (tiny_checkpoint.name, "llava_onevision", False)
    assert model.architecture == "LlavaOnevisionForConditionalGeneration"
    arrays = load_file(tiny_checkpoint / "model.safetensors")
    unused = sum(array.size for name, array in arrays.items() if "post_layernorm" in name)
    assert model.parameters == sum(array.size for array in arrays.values()) - unused


def test_build_tables_are_the_embeddings_of_the_checkpoint(
    build: Callable[..., BuildResult], tiny_checkpoint: Path
) -> None:
    bundle = Bundle.open(build().bundle)
    arrays = load_file(tiny_checkpoint / "model.safetensors")
    np.testing.assert_array_equal(bundle.table("embed"), arrays["language_model.model.embed_tokens.weight"])
    np.testing.assert_array_equal(np.ravel(bundle.table("newline")), arrays["image_newline"])


def test_build_prompt_needs_no_tokenizer_before_the_question(build: Callable[..., BuildResult]) -> None:
    prompt = build().manifest.prompt
    assert prompt.before_video
    assert all(piece.token is not None for piece in (*prompt.before_video, *prompt.next_turn))
    assert [piece.question for piece in prompt.after_video].count(True) == 1


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tiny_bundle_fp16", "untied_bundle", "siglip_bundle"])
def test_parity_covers_every_graph_and_pass(request: pytest.FixtureRequest, fixture: str) -> None:
    manifest = Bundle.open(request.getfixturevalue(fixture)).manifest
    vision, text = (f"all {part.layers}" for part in (manifest.dims.vision, manifest.dims.text))
    third = ("a third of the tokens", "module", "whole graph")
    full = ("all tokens", "transformers", "whole graph")
    expected = {
        "graphs/cacher_gate.onnx": [
            ("first frame", "transformers", "whole graph"),
            ("second frame", "module", "whole graph"),
        ],
        **{
            f"graphs/vit.{selection}.onnx": [
                ("full", "transformers", vision),
                (f"selective {share} %", "module", vision),
            ]
            for selection, share in (("gate", 25), ("per_layer", 6), ("shared", 6))
        },
        "graphs/pruner.none.onnx": [full],
        "graphs/pruner.random.onnx": [full, third],
        "graphs/pruner.stc_gaussian.onnx": [full, third],
        **{
            f"graphs/pruner.{method}.onnx": [full, third]
            for method in ("stc_dual_anchor", "stride", "vidcom2", "vcast", "evs")
        },
        "graphs/llm.onnx": [("prefill", "transformers", text), ("decode", "transformers", text)],
    }
    found: dict[str, list[tuple[str, str, str]]] = {}
    for case in manifest.parity:
        found.setdefault(case.graph, []).append((case.case, case.reference, case.layers))
    assert found == expected
    assert set(found) == {graph.file for graph in manifest.graphs}
    half = manifest.precision == "fp16"
    for case in manifest.parity:
        assert case.passed
        assert case.outputs
        for row in case.outputs:
            assert row.max_rel <= (2e-2 if half else 1e-5) or row.output == "kept_indices"


@pytest.mark.parametrize("fixture", ["tiny_bundle_bf16", "tiny_modern_bundle_bf16"])
def test_bf16_says_what_ran_in_place_of_its_graphs_and_keeps_none_of_it(
    request: pytest.FixtureRequest, fixture: str, tiny_bundle: Path
) -> None:
    bundle = Bundle.open(request.getfixturevalue(fixture))
    same = [(case.graph, case.case) for case in Bundle.open(tiny_bundle).manifest.parity]
    assert [(case.graph, case.case) for case in bundle.manifest.parity] == same
    for case in bundle.manifest.parity:
        assert case.passed
        assert case.layers.endswith(", float32 rounded to bfloat16")
        # Three layers and some roundings of 2^-8 each; a fifth of a ranking may differ.
        assert all(row.max_rel <= 8 * 2.0**-8 or row.output == "kept_indices" for row in case.outputs)
    assert Goldens.open(bundle.root).index.backend.endswith(", float32 rounded to bfloat16")
    listed = {entry.path for entry in bundle.manifest.files} | {"manifest.json"}
    assert {str(path.relative_to(bundle.root)) for path in bundle.root.rglob("*") if path.is_file()} == listed


@pytest.mark.parametrize(
    ("fixture", "precision"), [("tiny_bundle", "fp32"), ("tiny_bundle_fp16", "fp16"), ("tiny_bundle_bf16", "bf16")]
)
def test_manifest_says_the_precision_of_each_graph(
    request: pytest.FixtureRequest, fixture: str, precision: str
) -> None:
    manifest = Bundle.open(request.getfixturevalue(fixture)).manifest
    assert {manifest.precision, *(graph.precision for graph in manifest.graphs)} == {precision}


class Recorder:
    """Notes, and for each stage its total and the sum of what was reported."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: dict[str, list[Any]] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        self.stages[name] = [total, 0, unit]

        def advance(amount: int) -> None:
            self.stages[name][1] += amount

        yield advance

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_build_reports_all_of_its_work(
    build: Callable[..., BuildResult], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    result = run_build(BuildRequest(str(tiny_checkpoint), out=tmp_path / "y.stc"), recorder)
    assert recorder.notes == [f"bundle: {tmp_path / 'y.stc'} (fp32)"]
    assert list(recorder.stages) == ["weights", "graphs", "parity"]
    total, done, unit = recorder.stages["weights"]
    assert (total, unit) == (done, "B")
    assert 0 < total <= sum(f.size_bytes for f in result.manifest.files if f.path.endswith(".weights"))
    assert recorder.stages["graphs"] == [13, 13, "graphs"]
    assert recorder.stages["parity"] == [None, len(result.manifest.parity), "cases"]
    assert [stage.name for stage in result.stages] == ["weights", "graphs", "parity"]


def test_build_without_what_comes_after_the_features_gives_the_same_weights(
    build: Callable[..., BuildResult], tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    """SigLIP's last norm and its pooling head are not used, and transformers adds a head unless the config says no."""
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    del config["vision_config"]["vision_use_head"]
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    arrays = load_file(directory / "model.safetensors")
    save_file({n: a for n, a in arrays.items() if "post_layernorm" not in n}, directory / "model.safetensors")
    found, expected = quick.contents(build(model=str(directory)).bundle), quick.contents(tiny_bundle)
    del found[MANIFEST_NAME], expected[MANIFEST_NAME]
    assert found == expected


# --- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "order", "graph"),
    [
        ("layers.1.qvk.weight", (1, 0, 2), "graphs/vit.gate.onnx"),
        ("layers.0.qvk.bias", (2, 1, 0), "graphs/vit.gate.onnx"),
        ("layers.1.qkv.weight", (0, 2, 1), "graphs/llm.onnx"),
        ("layers.0.gate_up.weight", (1, 0), "graphs/llm.onnx"),
    ],
)
def test_build_with_sources_in_another_order_is_refused_and_leaves_nothing(
    build: Callable[..., BuildResult],
    existing: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    order: tuple[int, ...],
    graph: str,
) -> None:
    before = quick.contents(existing)

    def swapped(checkpoint: Any, recipes: Any, path: Path, advance: Any) -> Any:
        rows = [replace(r, sources=tuple(r.sources[i] for i in order)) if r.name == recipe else r for r in recipes]
        return weights.write_weights(checkpoint, tuple(rows), path, advance)

    monkeypatch.setattr(module, "write_weights", swapped)
    with pytest.raises(ParityError) as caught:
        build(overwrite=True)
    assert caught.value.exit_code == 1
    assert caught.value.problem.startswith(f"{graph} (")
    assert "of its largest value, at most 1e-04 is allowed." in caught.value.problem
    assert quick.contents(existing) == before
    assert quick.beside(existing.parent) == ["x.stc"]


def test_build_with_the_graph_of_another_selection_is_refused(
    build: Callable[..., BuildResult], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full passes agree, so only the selective pass can tell."""
    retrace = quick.retrace(tiny_bundle)

    def confused(graph: Any, stored: Any, path: Path) -> tuple[str, ...]:
        return retrace(replace(graph, variant="per_layer") if graph.variant == "shared" else graph, stored, path)

    monkeypatch.setattr(module, "trace", confused)
    with pytest.raises(ParityError, match=r"^graphs/vit\.shared\.onnx \(selective 6 %\): "):
        build()
    assert quick.beside(tmp_path) == []


# --- what was there --------------------------------------------------------------------------------------------------


def test_build_where_something_is_does_nothing(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = quick.contents(existing)
    monkeypatch.setattr(module, "_write", quick.forbidden)
    with pytest.raises(UsageError, match=r'x\.stc" already exists\. Choose another --out, or replace it with'):
        build()
    assert quick.contents(existing) == before


def test_build_with_overwrite_replaces_a_bundle_whole(
    build: Callable[..., BuildResult], existing: Path, tiny_bundle: Path
) -> None:
    assert build(overwrite=True).bundle == existing
    assert quick.contents(existing) == quick.contents(tiny_bundle)
    assert quick.beside(existing.parent) == ["x.stc"]


def test_build_with_overwrite_replaces_a_link_and_not_what_it_points_to(
    build: Callable[..., BuildResult], existing: Path, tiny_bundle: Path
) -> None:
    elsewhere = existing.rename(existing.parent / "elsewhere.stc")
    existing.symlink_to(elsewhere)
    build(overwrite=True)
    assert not existing.is_symlink()
    assert quick.contents(existing) == quick.contents(tiny_bundle)
    assert (elsewhere / "notes.txt").is_file()
    assert quick.beside(existing.parent) == ["elsewhere.stc", "x.stc"]


def test_build_does_not_replace_what_appeared_meanwhile(
    build: Callable[..., BuildResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = module.check_parity

    def slow(*arguments: Any) -> Any:
        (tmp_path / "x.stc").mkdir()
        (tmp_path / "x.stc" / MANIFEST_NAME).write_text("theirs", encoding="utf-8")
        return check(*arguments)

    monkeypatch.setattr(module, "check_parity", slow)
    with pytest.raises(UsageError, match="already exists"):
        build()
    assert (tmp_path / "x.stc" / MANIFEST_NAME).read_text(encoding="utf-8") == "theirs"
    assert quick.beside(tmp_path) == ["x.stc"]
