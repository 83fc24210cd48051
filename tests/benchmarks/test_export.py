"""Checkpoints of real shapes, written block by block, and how much memory a build takes beside its size."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load_file

from stc_export.pipeline.build import plan_build
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.dims import ModelDims
from stc_export.spec.progress import Silent
from tests.checkpoints import tiny_dims
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, Any]]:
    """The scripts as modules; their neighbours are imported from their own folder, as when they are started."""
    names = ("make_checkpoint", "watched", "export", "shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            patch.delitem(sys.modules, name)


def test_published_shapes_have_the_published_numbers_of_parameters(scripts: dict[str, Any], tmp_path: Path) -> None:
    """The model cards say 0.9 and 8 billion, of which SigLIP so400m has 0.41 and Qwen2 0.49 and 7.6."""
    make, shapes = scripts["make_checkpoint"], scripts["shapes"].SHAPES
    found = {}
    for name in ("llava-onevision-0.5b", "llava-onevision-7b"):
        parameters = make._parameters(shapes[name], make.CheckpointOptions(tied=shapes[name].tied))
        found[name] = sum(parameter.numel() for parameter in parameters.values()) / 1e9
    assert found == {
        "llava-onevision-0.5b": pytest.approx(0.894, abs=0.01),
        "llava-onevision-7b": pytest.approx(8.03, abs=0.03),
    }


def test_checkpoint_is_accepted_by_build_and_the_same_seed_gives_the_same_bytes(
    scripts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = scripts["make_checkpoint"], scripts["shapes"].SHAPES["quick"]
    monkeypatch.setattr(make, "SHARD_BYTES", 100_000)
    monkeypatch.setattr(make, "EXACT_ELEMENTS", 5_000)  # so that the embedding comes from the table
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make.write_random_checkpoint(tmp_path / name, shape, seed, Silent())
    a, b, c = (quick.contents(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {name for name in a if name.endswith(".safetensors")}
    assert len([name for name in a if name.endswith(".safetensors")]) == 4
    plan = plan_build(BuildRequest(str(tmp_path / "a"), out=tmp_path / "x.stc", precision="fp16"))
    total = json.loads((tmp_path / "a" / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert plan.parameters == total / 2 - 2 * shape.dims.vision.width  # SigLIP's last norm is not used


def test_shards_that_are_there_are_kept_and_a_partial_one_is_written_again(
    scripts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = scripts["make_checkpoint"], scripts["shapes"].SHAPES["quick"]
    monkeypatch.setattr(make, "SHARD_BYTES", 100_000)
    make.write_random_checkpoint(tmp_path, shape, 0, Silent())
    first, *_, last = sorted(tmp_path.glob("*.safetensors"))
    before, inode = quick.contents(tmp_path), first.stat().st_ino
    last.rename(last.with_suffix(".partial"))
    make.write_random_checkpoint(tmp_path, shape, 0, Silent())
    assert quick.contents(tmp_path) == before
    assert first.stat().st_ino == inode
    assert all(abs(values).max() > 0 for values in load_file(last).values())


@pytest.mark.slow
def test_build_of_a_large_decoder_takes_the_memory_of_one_matrix_more(scripts: dict[str, Any], tmp_path: Path) -> None:
    """290 MB of checkpoint, 580 MB as float32; its largest matrix has 131 MB as float32, of which two may be alive."""
    text = replace(tiny_dims().text, width=1024, mlp_width=8192, heads=8, head_dim=128, layers=3, vocab=32_000)
    large = scripts["shapes"].Shape(ModelDims(tiny_dims().vision, text), tied=False)
    peaks = []
    for name, shape in (("small", scripts["shapes"].SHAPES["quick"]), ("large", large)):
        scripts["make_checkpoint"].write_random_checkpoint(tmp_path / name, shape, 0, Silent())
        command = ["build", str(tmp_path / name), "--precision", "fp32", "--out", str(tmp_path / f"{name}.stc")]
        watched, document = scripts["watched"].watch(command)
        assert watched.code == 0, watched.errors
        assert document["manifest"]["precision"] == "fp32"
        peaks.append(watched.peak_anonymous_bytes)
    assert sum(file.stat().st_size for file in (tmp_path / "large").glob("*.safetensors")) > 280e6
    assert peaks[1] - peaks[0] < 2 * 131e6 + 64e6
