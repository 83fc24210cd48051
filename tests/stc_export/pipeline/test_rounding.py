"""A whole bundle with the LLM in int4: files and bytes by hand, parity, the record, and a stream over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from stc_export.cli.inspect import result_text
from stc_export.pipeline.build import plan_build
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.calibration import RECORD_NAME, read_record
from stc_export.spec.errors import UnsupportedError, UsageError
from stc_export.spec.manifest import read_manifest
from stc_runtime import Model, StreamSession
from stc_runtime.goldens import Goldens, run_goldens

if TYPE_CHECKING:
    from pathlib import Path

#: Layers of the LLM, [out, in]: D = 64, 4 + 2 x 2 heads of 16, hidden 128; two of each.
LAYERS = {"qkv": (128, 64), "out": (64, 64), "gate_up": (256, 64), "down": (64, 128)}


def test_only_the_llm_is_int4_and_its_parity_is_that_of_fp32(even_bundle_int4: Path) -> None:
    manifest = read_manifest(even_bundle_int4)
    assert manifest.precision == "fp32"
    assert {graph.role: graph.precision for graph in manifest.graphs} == {
        **dict.fromkeys(("cacher_gate", "vit", "pruner"), "fp32"),
        "llm": "int4",
    }
    rows = [row for case in manifest.parity if case.graph == "graphs/llm.onnx" for row in case.outputs]
    assert len(rows) == 6
    assert all(row.passed and row.tolerance == 1e-4 for row in rows)


def test_bytes_are_those_worked_out_by_hand(even_checkpoint: Path, even_bundle_int4: Path, tmp_path: Path) -> None:
    """Half a byte per weight and four bytes per 32 of them; the output matrix and norms as before."""
    weights = 2 * sum(rows * columns for rows, columns in LAYERS.values())
    plain = 4 * (2 * (128 + 2 * 64) + 64 + 8 + 512 * 64)  # biases and norms of the layers, last norm, angles, head
    plan = plan_build(BuildRequest(str(even_checkpoint), out=tmp_path / "x.stc", precision="int4"))
    (llm,) = (graph for graph in plan.graphs if graph.role == "llm")
    assert (llm.precision, llm.weights_bytes) == ("int4", weights // 2 + weights // 32 * 4 + plain)
    assert plan.size.disk_bytes == sum(path.stat().st_size for path in (even_bundle_int4 / "graphs").glob("*.weights"))


def test_record_has_each_weight_with_an_error_that_four_bits_explain(even_bundle_int4: Path) -> None:
    """Normal weights: a step is a seventh of the largest of 32, about 2.1 / 7 deviations; its error about 0.09."""
    (file,) = read_record(even_bundle_int4).files
    assert (file.file, file.precision, file.bits, file.block) == ("graphs/llm.weights", "int4", 4, 32)
    assert {tensor.name for tensor in file.tensors} == {f"layers.{i}.{name}.weight" for i in (0, 1) for name in LAYERS}
    assert all(0.07 < tensor.relative_error < 0.12 for tensor in file.tensors)


def test_inspect_shows_precision_and_error(even_bundle_int4: Path) -> None:
    result = inspect(even_bundle_int4)
    assert result.ok
    assert [row.file for row in result.rounded] == ["graphs/llm.weights"]
    text = result_text(result)
    assert "cpu, fp32, llm int4, base graphs" in text
    assert f"{result.rounded[0].mean_error:.2%}" in text
    assert RECORD_NAME in {entry.path for entry in result.manifest.files}


def test_goldens_hold_when_the_bundle_is_opened_again(even_bundle_int4: Path) -> None:
    model = Model.open(even_bundle_int4)
    entry = read_manifest(even_bundle_int4).graph("llm")
    engine = model.backend.open(even_bundle_int4, entry)
    cases = run_goldens(Goldens.open(even_bundle_int4), entry.file, engine, lambda *_: None)
    assert len(cases) == 2
    assert all(case.passed for case in cases)


def test_stream_runs_over_it(even_bundle_int4: Path) -> None:
    rng = np.random.default_rng(0)
    with StreamSession.open(even_bundle_int4) as stream:
        for second in range(3):
            assert stream.push(rng.integers(0, 256, (70, 70, 3), dtype=np.uint8), float(second)).kept_tokens > 0
        assert list(stream.ask("What?", max_tokens=3))


def test_layers_that_no_block_divides_are_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan_build(BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc", precision="int4"))
    assert caught.value.problem == ("In int4 32 weights share a scale, and layers.0.qkv.weight has 48 inputs.")


# --- layers in higher precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "patterns", "problem", "fix"),
    [
        (
            "int4",
            ("llm.layers.9.*",),
            '--keep-precision has "llm.layers.9.*", which fits no rounded layer.',
            "Those are llm.layers.0.qkv to llm.layers.1.down, in which * may stand for anything.",
        ),
        (
            "fp32",
            ("*",),
            '--keep-precision has "*", which fits no rounded layer.',
            "Add for example --precision int4.",
        ),
        ("int4", ("*",), "--keep-precision keeps all layers that would be rounded.", "Name fewer of them."),
    ],
)
def test_layers_that_cannot_be_kept_are_named(
    even_checkpoint: Path, tmp_path: Path, precision: str, patterns: tuple[str, ...], problem: str, fix: str
) -> None:
    request = BuildRequest(str(even_checkpoint), out=tmp_path / "x.stc", precision=precision, keep_precision=patterns)
    with pytest.raises(UsageError) as caught:
        plan_build(request)
    assert (caught.value.problem, caught.value.fix) == (problem, fix)
