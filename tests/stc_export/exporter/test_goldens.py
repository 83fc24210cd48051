"""Goldens as they are written: what is stored, what is not, and that they are what the graphs give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stc_export.exporter.goldens import GoldenRecorder
from stc_export.exporter.parity import ParityCase
from stc_export.spec.goldens import DATA_NAME, INDEX_NAME, GoldenIndex, index_from_text
from stc_runtime.goldens import Goldens


def case(name: str, graph: str = "graphs/a.onnx", rankings: frozenset[str] = frozenset(), **feeds: Any) -> ParityCase:
    expected = dict.fromkeys(rankings, np.zeros(2, np.int64))
    return ParityCase(graph, name, "module", feeds, expected, rankings)


def written(recorder: GoldenRecorder, root: Path) -> Goldens:
    assert recorder.write(root) == (INDEX_NAME, DATA_NAME)
    return Goldens.open(root)


def test_zeros_and_outputs_of_the_case_before_are_not_stored(tmp_path: Path) -> None:
    recorder = GoldenRecorder("a backend")
    out = np.arange(12, dtype=np.float32).reshape(3, 4)
    recorder.add(case("first", x=np.ones(4, np.float32), state=np.zeros((3, 4), np.float32)), {"new": out}, "fp32")
    recorder.add(case("second", x=np.ones(4, np.float32), state=out.reshape(1, 3, 4)), {"new": out}, "fp32")
    goldens = written(recorder, tmp_path)
    first, second = goldens.index.cases
    assert [(fed.offset_bytes is None, fed.output) for fed in first.inputs] == [(False, None), (True, None)]
    assert [(fed.name, fed.output, fed.shape) for fed in second.inputs] == [
        ("x", None, (4,)),
        ("state", "new", (1, 3, 4)),
    ]
    assert first.inputs[0].offset_bytes == second.inputs[0].offset_bytes, "the same numbers are stored once"
    # x: 4 values; new: 12, from the next multiple of 64 bytes on.
    assert (tmp_path / DATA_NAME).stat().st_size == 64 + 12 * 4
    np.testing.assert_array_equal(goldens.stored(first.outputs[0].offset_bytes, "float32", (3, 4)), out)


def test_output_of_another_graph_is_stored(tmp_path: Path) -> None:
    recorder = GoldenRecorder("a backend")
    out = np.arange(4, dtype=np.float32)
    recorder.add(case("first", x=np.ones(4, np.float32)), {"y": out}, "fp32")
    recorder.add(case("first", graph="graphs/b.onnx", x=out), {"y": out + 1}, "fp32")
    fed = written(recorder, tmp_path).index.cases[1].inputs[0]
    assert (fed.output, fed.offset_bytes is None) == (None, False)


def test_large_output_is_sampled_and_keeps_its_scale(tmp_path: Path) -> None:
    recorder = GoldenRecorder("a backend")
    out = np.random.default_rng(0).normal(size=(100, 100)).astype(np.float16)
    recorder.add(case("first", x=np.ones(1, np.float32)), {"y": out}, "fp16")
    goldens = written(recorder, tmp_path)
    row = goldens.index.cases[0].outputs[0]
    assert (row.stride, row.count, row.kind, row.tolerance) == (2, 5000, "numbers", 2e-2)
    assert row.scale == np.abs(out.astype(float)).max()
    np.testing.assert_array_equal(goldens.stored(row.offset_bytes, "float16", (5000,)), out.ravel()[::2])


def test_ranking_and_the_rows_that_belong_to_it_are_stored_whole(tmp_path: Path) -> None:
    recorder = GoldenRecorder("a backend")
    found = {"rows": np.ones((2, 9000), np.float32), "kept": np.array([3, 5]), "entry": np.ones(7, np.float32)}
    recorder.add(case("third", rankings=frozenset({"kept"}), x=np.ones(1, np.float32)), found, "fp32")
    rows = {row.name: row for row in written(recorder, tmp_path).index.cases[0].outputs}
    assert {name: row.kind for name, row in rows.items()} == {"rows": "rows", "kept": "ranking", "entry": "numbers"}
    assert rows["rows"].stride == 1
    assert rows["kept"].tolerance == 0.02


def test_graph_that_did_not_run_whole_is_named_once(tmp_path: Path) -> None:
    recorder = GoldenRecorder("a backend")
    recorder.leave_out("graphs/llm.onnx")
    recorder.leave_out("graphs/llm.onnx")
    goldens = written(recorder, tmp_path)
    assert goldens.index == GoldenIndex("a backend", (), ("graphs/llm.onnx",))
    assert goldens.data.size == 0


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_bundle_fp16", "untied_bundle"])
def test_bundle_has_two_cases_of_each_graph_and_lists_their_files(name: str, request: pytest.FixtureRequest) -> None:
    from stc_export.spec.manifest import read_manifest

    bundle: Path = request.getfixturevalue(name)
    manifest, goldens = read_manifest(bundle), Goldens.open(bundle)
    cases = [(golden.graph, golden.case) for golden in goldens.index.cases]
    assert cases == [(row.graph, row.case) for row in manifest.parity]
    assert {graph for graph, _ in cases} == {graph.file for graph in manifest.graphs}
    assert goldens.index.backend.startswith("ONNX Runtime ")
    assert goldens.index.without == ()
    assert {INDEX_NAME, DATA_NAME} < {entry.path for entry in manifest.files}


def test_large_state_of_a_selective_pass_comes_from_the_full_pass(tiny_bundle: Path) -> None:
    cases = {(golden.graph, golden.case.split()[0]): golden for golden in Goldens.open(tiny_bundle).index.cases}
    for selection in ("gate", "per_layer", "shared"):
        inputs = cases[f"graphs/vit.{selection}.onnx", "selective"].inputs
        state = [fed for fed in inputs if fed.name.endswith("_in")]
        assert state
        assert all(fed.output == fed.name.removesuffix("_in") + "_out" for fed in state)


def test_index_survives_reading_and_writing(tiny_bundle: Path) -> None:
    from stc_export.spec import codec

    text = (tiny_bundle / INDEX_NAME).read_text()
    index = index_from_text(text, "x", (tiny_bundle / DATA_NAME).stat().st_size)
    assert codec.to_json(index) == text
