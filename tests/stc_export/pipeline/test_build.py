"""Whole builds: what they write, what they refuse, and that they leave nothing behind when they fail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
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
from stc_export.spec.errors import CheckpointError, ParityError, ResourceError, UsageError
from stc_export.spec.manifest import MANIFEST_NAME
from stc_export.spec.policy import named_policies
from stc_export.spec.progress import Silent
from stc_runtime.bundle import Bundle
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES = ("_write_weights", "_write_graphs", "check_parity", "write_tokenizer")


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def build(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BuildResult]:
    """Build the tiny checkpoint to ``tmp_path/x.stc`` without tracing."""
    quick.install(monkeypatch, tiny_bundle)
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc")
    return lambda **changes: run_build(replace(request, **changes), changes.pop("progress", Silent()))


@pytest.fixture
def existing(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle at the place where ``build`` writes, with a file of the user's own."""
    out = shutil.copytree(tiny_bundle, tmp_path / "x.stc")
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    return out


# --- what is written -------------------------------------------------------------------------------------------------


def test_build_again_gives_the_same_bytes(build: Callable[..., BuildResult], tiny_bundle: Path) -> None:
    result = build()
    assert contents(result.bundle) == contents(tiny_bundle)
    assert Bundle.open(result.bundle).manifest == result.manifest


def test_build_lists_every_file_and_nothing_else(build: Callable[..., BuildResult]) -> None:
    result = build()
    listed = {entry.path: (entry.size_bytes, entry.sha256) for entry in result.manifest.files}
    found = contents(result.bundle)
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
        "graphs/pruner.stc_gaussian.onnx": [full, third],
        "graphs/pruner.stc_dual_anchor.onnx": [full, third],
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
    assert recorder.stages["graphs"] == [8, 8, "graphs"]
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
    found, expected = contents(build(model=str(directory)).bundle), contents(tiny_bundle)
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
    before = contents(existing)

    def swapped(checkpoint: Any, recipes: Any, path: Path, advance: Any) -> Any:
        rows = [replace(r, sources=tuple(r.sources[i] for i in order)) if r.name == recipe else r for r in recipes]
        return weights.write_weights(checkpoint, tuple(rows), path, advance)

    monkeypatch.setattr(module, "write_weights", swapped)
    with pytest.raises(ParityError) as caught:
        build(overwrite=True)
    assert caught.value.exit_code == 1
    assert caught.value.problem.startswith(f"{graph} (")
    assert "of its largest value, at most 1e-04 is allowed." in caught.value.problem
    assert contents(existing) == before
    assert beside(existing.parent) == ["x.stc"]


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
    assert beside(tmp_path) == []


# --- what was there --------------------------------------------------------------------------------------------------


def forbidden(*_: object, **__: object) -> None:
    raise AssertionError("work was done before the output was checked")


def test_build_where_something_is_does_nothing(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(existing)
    monkeypatch.setattr(module, "_write", forbidden)
    with pytest.raises(UsageError, match=r'x\.stc" already exists\. Choose another --out, or replace it with'):
        build()
    assert contents(existing) == before


def test_build_with_overwrite_replaces_a_bundle_whole(
    build: Callable[..., BuildResult], existing: Path, tiny_bundle: Path
) -> None:
    assert build(overwrite=True).bundle == existing
    assert contents(existing) == contents(tiny_bundle)
    assert beside(existing.parent) == ["x.stc"]


def test_build_with_overwrite_replaces_a_link_and_not_what_it_points_to(
    build: Callable[..., BuildResult], existing: Path, tiny_bundle: Path
) -> None:
    elsewhere = existing.rename(existing.parent / "elsewhere.stc")
    existing.symlink_to(elsewhere)
    build(overwrite=True)
    assert not existing.is_symlink()
    assert contents(existing) == contents(tiny_bundle)
    assert (elsewhere / "notes.txt").is_file()
    assert beside(existing.parent) == ["elsewhere.stc", "x.stc"]


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
    assert beside(tmp_path) == ["x.stc"]


# --- interrupted and failed builds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_build_interrupted_in_a_stage_leaves_things_as_they_were(
    build: Callable[..., BuildResult],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    overwrite: bool,
) -> None:
    before = contents(request.getfixturevalue("existing")) if overwrite else None
    run = getattr(module, stage)

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(overwrite=overwrite)
    assert beside(tmp_path) == (["x.stc"] if overwrite else [])
    if overwrite:
        assert contents(tmp_path / "x.stc") == before


@pytest.mark.parametrize("number", [1, 2])
def test_build_interrupted_while_it_replaces_leaves_the_old_bundle(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The first rename puts the old bundle aside, the second puts the new one in its place."""
    before, rename, calls = contents(existing), Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == number:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(overwrite=True)
    assert contents(existing) == before
    assert beside(existing.parent) == ["x.stc"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("stage", STAGES)
def test_build_on_a_full_disk_says_so_and_frees_what_it_took(
    build: Callable[..., BuildResult], existing: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    before = contents(existing)

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, stage, full)
    with pytest.raises(ResourceError) as caught:
        build(overwrite=True)
    assert caught.value.exit_code == 4
    assert caught.value.problem == f'The disk is full: "{existing}" was not written.'
    assert caught.value.fix == "Free space, or choose another --out."
    assert contents(existing) == before
    assert beside(existing.parent) == ["x.stc"]


def test_build_other_system_error_is_not_called_a_full_disk(
    build: Callable[..., BuildResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "disk")

    monkeypatch.setattr(module, "_write_weights", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        build()
    assert not isinstance(caught.value, ResourceError)
    assert beside(tmp_path) == []


def test_build_with_an_unreadable_tokenizer_fails_before_the_long_stages(
    build: Callable[..., BuildResult], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(module, "_write_weights", forbidden)
    with pytest.raises(CheckpointError):
        build(model=str(directory))
    assert beside(tmp_path) == ["model"]


# --- what killed builds left -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dead() -> int:
    """Id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_build_clears_up_after_dead_builds_and_not_after_living_ones(
    build: Callable[..., BuildResult], tmp_path: Path, dead: int
) -> None:
    kept = [f".x.stc.partial-{os.getpid()}-a", ".x.stc.partial-1-b", f".y.stc.partial-{dead}-c", "x.stc.partial"]
    removed = [f".x.stc.partial-{dead}-d", ".x.stc.partial-e"]
    for name in (*kept, *removed):
        (tmp_path / name / "graphs").mkdir(parents=True)
    build()
    assert beside(tmp_path) == sorted([*kept, "x.stc"])


def test_build_name_with_pattern_characters_clears_only_its_own(
    build: Callable[..., BuildResult], tmp_path: Path, dead: int
) -> None:
    for name in (f".[ab].stc.partial-{dead}-x", f".a.stc.partial-{dead}-x"):
        (tmp_path / name).mkdir()
    build(out=tmp_path / "[ab].stc")
    assert beside(tmp_path) == [f".a.stc.partial-{dead}-x", "[ab].stc"]


def test_build_killed_between_the_renames_is_undone_by_the_next(
    build: Callable[..., BuildResult], existing: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(existing)
    existing.rename(existing.parent / f".x.stc.old-{dead}-a")
    monkeypatch.setattr(module, "_write", forbidden)
    with pytest.raises(UsageError, match="already exists"):
        build()
    assert contents(existing) == before
    assert beside(existing.parent) == ["x.stc"]


def test_build_killed_after_the_renames_is_cleared_up(
    build: Callable[..., BuildResult], existing: Path, tiny_bundle: Path, dead: int
) -> None:
    shutil.copytree(existing, existing.parent / f".x.stc.old-{dead}-a")
    build(overwrite=True)
    assert contents(existing) == contents(tiny_bundle)
    assert beside(existing.parent) == ["x.stc"]
