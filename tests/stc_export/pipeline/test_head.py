"""A bundle whose output matrix is rounded, too: its file, parity, the record, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from stc_engines import find_target
from stc_export.cli.inspect import result_text
from stc_export.pipeline.build import plan_build
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.precisions import read_head, read_precisions
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.calibration import read_record
from stc_export.spec.errors import UnsupportedError, UsageError
from stc_export.spec.manifest import read_manifest
from stc_runtime import StreamSession
from tests.bundles import built_once

#: V and D.
VOCAB, WIDTH = 512, 64
REQUEST = BuildRequest("", precision="int4", head="int4")


@pytest.fixture(scope="session")
def rounded(tmp_path_factory: pytest.TempPathFactory, even_checkpoint: Path) -> Path:
    """For ONNX Runtime; the output matrix is the embedding table."""
    request = replace(REQUEST, model=str(even_checkpoint))
    return built_once(tmp_path_factory, "even-head", lambda out: replace(request, out=out))


@pytest.fixture(scope="session")
def rounded_for_tensorrt(tmp_path_factory: pytest.TempPathFactory, even_checkpoint: Path) -> Path:
    request = replace(REQUEST, model=str(even_checkpoint), target="rtx")
    return built_once(tmp_path_factory, "even-head-rtx", lambda out: replace(request, out=out))


def test_output_matrix_has_a_file_of_its_own_and_the_host_its_table(rounded: Path, even_checkpoint: Path) -> None:
    manifest = read_manifest(rounded)
    assert set(manifest.graph("llm").weights) == {"graphs/llm.weights", "graphs/head.weights"}
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    assert sizes["graphs/head.weights"] == VOCAB * WIDTH // 2 + VOCAB * WIDTH // 32 * 4
    table = manifest.table("embed")
    stored = np.fromfile(rounded / table.file, np.float32, VOCAB * WIDTH, offset=table.offset_bytes)
    original = load_file(even_checkpoint / "model.safetensors")
    (name,) = (key for key in original if key.endswith("embed_tokens.weight"))
    np.testing.assert_array_equal(stored.reshape(VOCAB, WIDTH), original[name].astype(np.float32))


def test_codes_and_scales_are_those_of_the_formula(rounded: Path, even_checkpoint: Path) -> None:
    """A scale is a seventh of the largest of 32, a code the nearest number of scales, 8 added, two in a byte."""
    original = load_file(even_checkpoint / "model.safetensors")
    (name,) = (key for key in original if key.endswith("embed_tokens.weight"))
    blocks = original[name].astype(np.float32).reshape(VOCAB, -1, 32)
    scales = np.abs(blocks).max(-1) / np.float32(7)
    codes = (np.rint(blocks / scales[..., None]) + 8).astype(np.uint8).reshape(VOCAB, WIDTH)
    data = np.fromfile(rounded / "graphs/head.weights", np.uint8)
    packed = VOCAB * WIDTH // 2
    np.testing.assert_array_equal(data[:packed].reshape(VOCAB, -1), codes[:, ::2] | codes[:, 1::2] << 4)
    np.testing.assert_allclose(data[packed:].view(np.float32), scales.reshape(-1), rtol=1e-6)


@pytest.mark.parametrize("built", ["rounded", "rounded_for_tensorrt"])
def test_parity_is_that_of_the_floating_point_type(built: str, request: pytest.FixtureRequest) -> None:
    """Against transformers over the rounded matrix: the kernels are looked at, not the rounding."""
    manifest = read_manifest(request.getfixturevalue(built))
    rows = [row for case in manifest.parity if case.graph == "graphs/llm.onnx" for row in case.outputs]
    logits = [row for row in rows if row.output == "logits"]
    assert logits
    tolerance = {"fp32": 1e-4, "fp16": 2e-2}[manifest.precision]
    assert all(row.passed and row.tolerance == tolerance for row in rows)


def test_record_and_inspect_tell_what_it_cost(rounded: Path) -> None:
    files = {file.file: file for file in read_record(rounded).files}
    assert set(files) == {"graphs/llm.weights", "graphs/head.weights"}
    (tensor,) = files["graphs/head.weights"].tensors
    assert tensor.name == "head.weight"
    assert 0.07 < tensor.relative_error < 0.12
    result = inspect(rounded)
    assert result.ok
    assert "graphs/head.weights  int4" in result_text(result)


def test_stream_answers_over_it(rounded: Path) -> None:
    rng = np.random.default_rng(0)
    with StreamSession.open(rounded) as stream:
        stream.push(rng.integers(0, 256, (70, 70, 3), dtype=np.uint8), 0.0)
        assert list(stream.ask("What?", max_tokens=3))


def test_plan_counts_it_once_in_few_bits(even_checkpoint: Path, tmp_path: Path) -> None:
    request = BuildRequest(str(even_checkpoint), out=tmp_path / "x.stc", precision="int4")
    plain, few = plan_build(request), plan_build(replace(request, head="int8"))
    (before,), (after,) = ([g.weights_bytes for g in plan.graphs if g.role == "llm"] for plan in (plain, few))
    rounded = VOCAB * WIDTH + VOCAB * WIDTH // 32 * 4
    assert before - after == VOCAB * WIDTH * 4 - rounded
    assert few.size.disk_bytes == plain.size.disk_bytes + rounded  # the table of the host stays


def test_it_can_be_kept_by_its_name(even_checkpoint: Path, tmp_path: Path) -> None:
    request = replace(REQUEST, model=str(even_checkpoint), out=tmp_path / "x.stc", keep_precision=("llm.nothing",))
    with pytest.raises(UsageError) as caught:
        plan_build(request)
    assert caught.value.fix == "Those are llm.layers.0.qkv to head.head, in which * may stand for anything."


@pytest.mark.parametrize(
    ("precision", "head", "problem", "fix"),
    [
        ("fp32", "int4", "--head is int4, but the layers of the LLM are not rounded.", "--precision llm=int4"),
        ("int4", "int5", 'Target cpu has no precision "int5".', "Did you mean"),
        ("int4", "fp16", "The output matrix cannot be fp16.", "Known: int4, int4-128, int8."),
    ],
)
def test_what_cannot_be_rounded_is_refused(precision: str, head: str, problem: str, fix: str) -> None:
    target = find_target("cpu")
    with pytest.raises((UsageError, UnsupportedError)) as caught:
        read_head(head, read_precisions(precision, target), target)
    assert caught.value.problem == problem
    assert fix in caught.value.fix
