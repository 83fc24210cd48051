"""The metrics of the selection: formulas and gate graphs against numpy, weights shared, the default left as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stc_calib.pictures import real_frames
from stc_export.families.llava_onevision.metrics import METRICS
from stc_export.spec.interface import metric_variant
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import METRIC_NAMES
from stc_runtime.backends.ort import OrtBackend
from tests.reference.metrics import similarity
from tests.stc_export.families.llava_onevision.model import relative_error

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.spec.policy import Metric

OTHERS = [name for name in METRIC_NAMES if name != "cosine"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 40), st.sampled_from(METRIC_NAMES))
def test_metric_equals_its_definition(seed: int, rows: int, width: int, metric: Metric) -> None:
    now, before = np.random.default_rng(seed).standard_normal((2, rows, width)).astype(np.float32)
    found = METRICS[metric](torch.from_numpy(now), torch.from_numpy(before)).numpy()
    # Terms of a dot product cancel, so its error is relative to the lengths of the rows.
    scale = max(1.0, float((np.linalg.norm(now, axis=1) * np.linalg.norm(before, axis=1)).max()))
    np.testing.assert_allclose(found, similarity(metric, now, before), rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_changed_row_is_the_lowest_and_an_empty_one_is_finite(metric: Metric) -> None:
    before = torch.eye(4) + 1.0
    now = before.clone()
    now[2] = -before[2]
    assert int(METRICS[metric](now, before).argmin()) == 2
    assert torch.isfinite(METRICS[metric](now, torch.zeros(4, 4))).all()


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_gate_graph_compares_like_numpy_and_reports_the_cosine(tiny_whole_bundle: Path, metric: Metric) -> None:
    manifest = read_manifest(tiny_whole_bundle)
    gate = OrtBackend().open(tiny_whole_bundle, manifest.graph("cacher_gate", metric_variant("default", metric)))
    first, second = real_frames(manifest.dims.vision.image_size)
    shape = (manifest.dims.vision.tokens, manifest.dims.vision.width)
    before = gate.run({"frame": first, "reference": np.zeros(shape, np.float32)}, {})["patch_embeddings"]
    found = gate.run({"frame": second, "reference": before}, {})
    now = found["patch_embeddings"]
    assert relative_error(found["similarity"], similarity(metric, now, before)) <= 1e-4
    cosine = similarity("cosine", now, before)
    np.testing.assert_allclose(found["statistics"][:2], [cosine.mean(), cosine.min()], rtol=1e-5)


def test_build_adds_three_graphs_for_each_metric_and_no_weight(tiny_bundle: Path, tiny_whole_bundle: Path) -> None:
    plain, whole = read_manifest(tiny_bundle), read_manifest(tiny_whole_bundle)
    added = {(g.role, g.variant) for g in whole.graphs} - {(g.role, g.variant) for g in plain.graphs}
    ranked = {("vit", f"{selection}.{metric}") for selection in ("per_layer", "shared") for metric in OTHERS}
    assert {row for row in added if row[0] != "pruner"} == {("cacher_gate", metric) for metric in OTHERS} | ranked
    files = {entry.path: entry.sha256 for entry in plain.files if entry.path.endswith(".weights")}
    assert files == {entry.path: entry.sha256 for entry in whole.files if entry.path.endswith(".weights")}


def test_every_graph_of_a_metric_passed_the_parity_check(tiny_whole_bundle: Path) -> None:
    manifest = read_manifest(tiny_whole_bundle)
    cases = [row for row in manifest.parity if row.graph.rpartition(".")[0].rpartition(".")[2] in OTHERS]
    assert len(cases) == 2 * 3 * len(OTHERS)
    assert all(row.passed for row in cases)


def test_gate_of_the_default_computes_the_cosine_once(tiny_bundle: Path) -> None:
    graph = onnx.load(tiny_bundle / "graphs/cacher_gate.onnx", load_external_data=False).graph
    divisions = [node for node in graph.node if node.op_type == "Div"]
    assert len(divisions) == 2  # the cosine, and the change of the frame
