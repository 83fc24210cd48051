"""Bundles whose embedding table is rounded: the table, what the host reads of it, parity, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from stc_export.pipeline.build import plan_build
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.precisions import bundle_precisions
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.calibration import read_record
from stc_export.spec.errors import BundleError, UsageError
from stc_export.spec.manifest import read_manifest
from stc_runtime import Model, StreamSession
from stc_runtime.interface import check_interface
from stc_runtime.testing import FakeBackend
from tests.bundles import built_once

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: As numpy carries them, and as numbers.
TYPES: dict[str, tuple[type, Any]] = {
    "fp32": (np.float32, np.float32),
    "fp16": (np.float16, np.float16),
    "bf16": (np.uint16, ml_dtypes.bfloat16),
}


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory, untied_checkpoint: Path) -> Callable[[str], Path]:
    """A bundle in a precision, with the table in int8 and the output matrix as it is."""

    def bundle(floats: str) -> Path:
        target = {"bf16": "rtx"}.get(floats, "cpu")
        request = BuildRequest(str(untied_checkpoint), target, precision=f"{floats},embed=int8", flavour="base")
        return built_once(tmp_path_factory, f"untied-embed-{floats}", lambda out: replace(request, out=out))

    return bundle


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory, even_checkpoint: Path) -> Path:
    """Both the table and the output matrix, which have the same source, in few bits."""
    request = BuildRequest(str(even_checkpoint), precision="int4,embed=int8", head="int4")
    return built_once(tmp_path_factory, "even-embed", lambda out: replace(request, out=out))


def table_of(checkpoint: Path) -> np.ndarray:
    arrays = load_file(checkpoint / "model.safetensors")
    (name,) = (key for key in arrays if key.endswith("embed_tokens.weight"))
    found: np.ndarray = arrays[name].astype(np.float32)
    return found


@pytest.mark.parametrize("floats", list(TYPES))
def test_host_reads_the_rows_of_the_formula(
    floats: str, untied: Callable[[str], Path], untied_checkpoint: Path
) -> None:
    """A scale is the largest of a row divided by 127, in the type of activations, and so is the product."""
    carried, number = TYPES[floats]
    original = table_of(untied_checkpoint)
    scales = (np.abs(original).max(-1, keepdims=True) / np.float32(127)).astype(number).astype(np.float32)
    expected = (np.rint(original / scales).clip(-127, 127) * scales).astype(number)
    model = Model.open(untied(floats), FakeBackend())
    tokens = tuple(np.random.default_rng(0).integers(0, len(original), 50).tolist())
    found = model.embed(tokens)
    assert found.dtype == carried == model.dtype
    np.testing.assert_array_equal(found.view(number), expected[list(tokens)])
    # Half a code, and in types of few bits the roundings of scale and product.
    error = np.abs(found.view(number).astype(np.float32) - original[list(tokens)])
    assert (error <= scales[list(tokens)] * (0.5 + 127 * 2 * float(ml_dtypes.finfo(number).eps))).all()


@pytest.mark.parametrize("built", ["untied", "tied"])
def test_parity_is_that_of_the_floating_point_type(built: str, request: pytest.FixtureRequest) -> None:
    """The graph has nothing of the table; where the sources are the same its matrix is rounded by its own scheme."""
    made = request.getfixturevalue(built)
    manifest = read_manifest(made("fp32") if built == "untied" else made)
    rows = [row for case in manifest.parity if case.graph == "graphs/llm.onnx" for row in case.outputs]
    assert rows
    assert all(row.passed and row.tolerance == 1e-4 for row in rows)
    assert "graphs/embed.weights" not in manifest.graph("llm").weights


def test_record_and_inspect_tell_what_it_cost(tied: Path) -> None:
    files = {file.file: file for file in read_record(tied).files}
    (tensor,) = files["graphs/embed.weights"].tensors
    assert files["graphs/embed.weights"].precision == "int8"
    assert tensor.name == "embed"
    assert 0.003 < tensor.relative_error < 0.02
    assert inspect(tied).ok
    assert bundle_precisions(read_manifest(tied)).text == "fp32, llm int4, embed int8"


def test_table_takes_a_quarter_of_fp32(tied: Path, even_checkpoint: Path) -> None:
    rows, width = table_of(even_checkpoint).shape
    sizes = {entry.path: entry.size_bytes for entry in read_manifest(tied).files}
    pages = 3 * 4096  # codes, scales and the newline begin at pages
    assert rows * (width + 4) <= sizes["graphs/embed.weights"] <= rows * (width + 4) + pages
    request = BuildRequest(str(even_checkpoint), out=tied.with_name("x.stc"), precision="int4", head="int4")
    plain, few = plan_build(request), plan_build(replace(request, precision="int4,embed=int8"))
    assert plain.size.disk_bytes - few.size.disk_bytes == pytest.approx(rows * (3 * width - 4), abs=pages)


def test_stream_answers_over_it(tied: Path) -> None:
    rng = np.random.default_rng(0)
    with StreamSession.open(tied) as stream:
        stream.push(rng.integers(0, 256, (70, 70, 3), dtype=np.uint8), 0.0)
        assert list(stream.ask("What?", max_tokens=3))


def test_output_matrix_that_is_the_table_must_be_rounded_as_well(even_checkpoint: Path, tmp_path: Path) -> None:
    request = BuildRequest(str(even_checkpoint), out=tmp_path / "x.stc", precision="int4,embed=int8")
    with pytest.raises(UsageError) as caught:
        plan_build(request)
    assert caught.value.problem.startswith("The output matrix of this model is its embedding table")
    assert "--head int4" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("embed_scale", {"name": "other"}, 'The bundle has no table "embed_scale".'),
        ("embed_scale", {"dtype": "float16"}, 'the table "embed_scale" is float16'),
        ("embed_scale", {"shape": (512, 2)}, 'the table "embed_scale" is float32 [512, 2]'),
        ("embed", {"dtype": "uint8"}, 'the table "embed" is uint8'),
        ("newline", {"dtype": "int8"}, 'the table "newline" is int8'),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(
    tied: Path, name: str, changes: dict[str, Any], problem: str
) -> None:
    manifest = read_manifest(tied)
    tables = tuple(replace(table, **changes) if table.name == name else table for table in manifest.tables)
    with pytest.raises(BundleError) as caught:
        check_interface(replace(manifest, tables=tables), "x.stc")
    assert problem in caught.value.problem
