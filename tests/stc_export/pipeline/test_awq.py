"""AWQ in a build: the folded model is the model, the bundle is checked, the record tells what was gained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stc_export.cli.inspect import result_text
from stc_export.demo.checkpoint import CheckpointOptions, write_checkpoint
from stc_export.exporter.scaled import ScaledCheckpoint
from stc_export.families.llava_onevision.calibration import groups
from stc_export.pipeline.awq import fold_scales
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.plan import Prepared, prepare
from stc_export.pipeline.source import Source
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.calibration import read_record
from stc_export.spec.errors import UnsupportedError, UsageError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.progress import Silent
from tests.bundles import built_once
from tests.checkpoints import tiny_dims
from tests.stc_export.families.llava_onevision.model import relative_error

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.exporter.checkpoint import Checkpoint

AWQ = BuildRequest("", precision="int4", rounding="awq")


def prepared(checkpoint: Path, request: BuildRequest = AWQ) -> Prepared:
    return prepare(request, Source(checkpoint, "x"))


@pytest.fixture(scope="module")
def many_heads_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every query head has a head of keys and values of its own."""
    text = replace(tiny_dims().text, width=64, mlp_width=128, kv_heads=4)
    return write_checkpoint(
        tmp_path_factory.mktemp("heads"), replace(tiny_dims(), text=text), CheckpointOptions(seed=1)
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, even_checkpoint: Path) -> Path:
    """With three weights that are not rounded."""
    request = replace(AWQ, model=str(even_checkpoint), keep_precision=("llm.layers.0.qkv", "llm.layers.?.down"))
    return built_once(tmp_path_factory, "even-awq", lambda out: replace(request, out=out))


def logits(build: Prepared, checkpoint: Checkpoint) -> list[np.ndarray]:
    """Return what the LLM of a checkpoint says to two prompts of random numbers."""
    rng = np.random.default_rng(0)
    hidden: tuple[np.ndarray, ...] = tuple(rng.standard_normal((n, 64), np.float32) for n in (5, 9))
    language = build.model.language(checkpoint)
    for layer in range(build.model.dims.text.layers):
        hidden = language.run(layer, hidden).hidden
    return [answer.logits for answer in language.answer(hidden)]


def test_folding_any_scales_leaves_the_model_as_it_was(many_heads_checkpoint: Path) -> None:
    """Scales from 1/30 to 30 in all four places; float32 keeps seven digits."""
    build = prepared(many_heads_checkpoint)
    rng = np.random.default_rng(0)
    rows, columns = {}, {}
    for layer in range(2):
        for group in groups(build.model.dims.text, layer):
            assert group.before
            inputs = build.checkpoint.info(group.layers[0]).shape[1]
            scales = np.exp(rng.uniform(-3.4, 3.4, inputs)).astype(np.float32)
            columns |= dict.fromkeys(group.layers, scales)
            rows |= dict.fromkeys(group.before, 1 / scales)
    base = build.checkpoint
    folded = ScaledCheckpoint(base.directory, base.config, base.tensors, rows, columns)
    assert len(columns) == 14
    for found, exact in zip(logits(build, folded), logits(build, base), strict=True):
        assert relative_error(found, exact) < 1e-5


@pytest.mark.parametrize(("fixture", "places"), [("even", 3), ("many_heads", 4)])
def test_search_folds_each_layer_that_can_be(request: pytest.FixtureRequest, fixture: str, places: int) -> None:
    build = prepared(request.getfixturevalue(f"{fixture}_checkpoint"))
    folded = fold_scales(build, None, Silent())
    names = ("qkv", "out", "gate_up", "down") if places == 4 else ("qkv", "gate_up", "down")
    assert [row.layer for row in folded.scales] == [f"llm.layers.{i}.{name}" for i in (0, 1) for name in names]
    assert all(0 < row.error <= row.nearest_error < 0.5 for row in folded.scales)
    assert any(row.alpha > 0 for row in folded.scales)
    for found, exact in zip(logits(build, folded.checkpoint), logits(build, build.checkpoint), strict=True):
        assert relative_error(found, exact) < 1e-5


def test_layers_that_are_kept_are_not_searched(even_checkpoint: Path) -> None:
    build = prepared(even_checkpoint, replace(AWQ, keep_precision=("llm.layers.0.*", "*.down")))
    folded = fold_scales(build, None, Silent())
    assert [row.layer for row in folded.scales] == ["llm.layers.1.qkv", "llm.layers.1.gate_up"]


def test_bundle_passes_the_parity_check_and_its_record_tells_how_it_was_rounded(bundle: Path) -> None:
    assert all(row.passed for case in read_manifest(bundle).parity for row in case.outputs)
    (file,) = read_record(bundle).files
    assert (file.rounding, file.precision) == ("awq", "int4")
    assert [row.layer for row in file.folded] == ["llm.layers.0.gate_up", "llm.layers.1.qkv", "llm.layers.1.gate_up"]
    assert file.kept == ("llm.layers.0.qkv", "llm.layers.0.down", "llm.layers.1.down")
    assert (file.data, len(file.data_sha256)) == ("demo world", 64)
    assert len(file.tensors) == 5
    assert all(0.05 < tensor.relative_error < 0.15 for tensor in file.tensors)


def test_inspect_says_how_it_was_rounded(bundle: Path) -> None:
    assert "graphs/llm.weights  int4, awq on demo world, 3 layers kept  32 " in result_text(inspect(bundle))


def test_kept_layers_take_the_bytes_that_they_had(bundle: Path, even_bundle_int4: Path) -> None:
    """128 x 64 and twice 64 x 128 numbers of four bytes, for half a byte and a scale per 32."""
    kept, rounded = (read_manifest(path).session.weights_bytes for path in (bundle, even_bundle_int4))
    assert kept - rounded == 3 * (128 * 64 * 4 - 128 * 64 // 2 - 128 * 64 // 32 * 4)


def test_rounding_to_the_nearest_folds_nothing(even_checkpoint: Path, even_bundle_int4: Path) -> None:
    build = prepared(even_checkpoint, replace(AWQ, rounding="nearest"))
    assert fold_scales(build, None, Silent()).checkpoint is build.checkpoint
    (file,) = read_record(even_bundle_int4).files
    assert (file.rounding, file.folded, file.kept) == ("nearest", (), ())


def test_rounding_that_does_not_exist_or_has_nothing_to_round_is_refused(even_checkpoint: Path) -> None:
    with pytest.raises(UnsupportedError, match=r'no rounding "awk"\. Did you mean "awq"\?'):
        prepared(even_checkpoint, replace(AWQ, rounding="awk"))
    with pytest.raises(UsageError, match=r"--rounding is awq, but no weights are rounded\."):
        prepared(even_checkpoint, replace(AWQ, precision="fp32"))
