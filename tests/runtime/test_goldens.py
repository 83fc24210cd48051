"""Goldens find an engine that computes something else, and refuse an index that lies."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stc_export.spec.errors import BundleError
from stc_export.spec.goldens import DATA_NAME, INDEX_NAME
from stc_export.spec.manifest import GraphEntry, GraphParity, read_manifest
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.dtypes import narrowed, widened
from stc_runtime.goldens import Goldens, run_goldens

Array = NDArray[Any]
Change = Callable[[dict[str, Array]], dict[str, Array]]


class Changed:
    """An engine whose outputs are changed before anyone sees them."""

    def __init__(self, root: Path, graph: GraphEntry, change: Change) -> None:
        self._engine, self._change = OrtBackend().open(root, graph), change

    def run(self, feeds: dict[str, Array], into: dict[str, Array]) -> dict[str, Array]:
        return self._change(self._engine.run(feeds, into))


def check(bundle: Path, role: Any, variant: str, change: Change) -> tuple[GraphParity, ...]:
    graph = read_manifest(bundle).graph(role, variant)
    ran: list[str] = []

    def on_case(case: str, run: Callable[[], object]) -> None:
        run()
        ran.append(case)

    rows = run_goldens(Goldens.open(bundle), graph.file, Changed(bundle, graph, change), on_case)
    assert ran == [row.case for row in rows]
    return rows


def same(outputs: dict[str, Array]) -> dict[str, Array]:
    return outputs


@pytest.mark.parametrize(
    "name", ["tiny_bundle", "tiny_bundle_fp16", "runnable_bundle_bf16", "untied_bundle", "tiny_kv_bundle_fp16"]
)
def test_onnx_runtime_gives_its_own_numbers_again(name: str, request: pytest.FixtureRequest) -> None:
    bundle: Path = request.getfixturevalue(name)
    for graph in read_manifest(bundle).graphs:
        rows = check(bundle, graph.role, graph.variant, same)
        assert len(rows) >= 1
        for row in rows:
            assert row.passed, row
            assert row.reference == "goldens"
            # Sums in another order at most: the engine is the one that wrote the goldens.
            assert max(output.max_rel for output in row.outputs) <= 1e-3, row


def test_layers_are_one_row_each_kind(tiny_bundle: Path) -> None:
    full, _ = check(tiny_bundle, "vit", "gate", same)
    assert [row.output for row in full.outputs] == ["features", "delta_out", "key_*_out", "value_*_out"]


@pytest.mark.parametrize(
    ("role", "variant", "output"),
    [
        ("cacher_gate", "default", "similarity"),
        ("vit", "gate", "features"),
        ("vit", "gate", "key_1_out"),
        ("vit", "shared", "mlp_0_out"),
        ("pruner", "stc_dual_anchor", "history_entry"),
        ("pruner", "none", "visual_tokens"),
        ("llm", "default", "logits"),
        ("llm", "default", "value_1_out"),
    ],
)
def test_one_percent_of_any_output_is_found(tiny_bundle: Path, role: str, variant: str, output: str) -> None:
    def change(outputs: dict[str, Array]) -> dict[str, Array]:
        return {n: (v * 1.01).astype(v.dtype) if n == output else v for n, v in outputs.items()}

    bad = check(tiny_bundle, role, variant, change)[-1]
    group = re.sub(r"_\d+_", "_*_", output)
    assert [row.output for row in bad.outputs if not row.passed] == [group]
    assert next(row.max_rel for row in bad.outputs if row.output == group) == pytest.approx(0.01, rel=0.01)


def test_a_fifth_of_a_bf16_output_is_found(runnable_bundle_bf16: Path) -> None:
    """As uint16 the numbers would compare as something else."""

    def change(outputs: dict[str, Array]) -> dict[str, Array]:
        wide = widened(outputs["features"])
        return {**outputs, "features": narrowed(wide * 1.2, outputs["features"].dtype)}

    (bad,) = check(runnable_bundle_bf16, "vit", "gate", change)
    assert [row.output for row in bad.outputs if not row.passed] == ["features"]
    assert bad.outputs[0].max_rel == pytest.approx(0.2, abs=2.0**-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_found(tiny_bundle: Path, bad: float) -> None:
    def change(outputs: dict[str, Array]) -> dict[str, Array]:
        outputs["logits"].flat[0] = bad
        return outputs

    assert not any(row.passed for row in check(tiny_bundle, "llm", "default", change))


def test_output_of_another_shape_is_found(tiny_bundle: Path) -> None:
    rows = check(tiny_bundle, "vit", "gate", lambda outputs: {n: v[:-1] for n, v in outputs.items()})
    assert [row.case for row in rows] == ["full"], "the next case would start from a wrong state"
    assert not any(output.passed for output in rows[0].outputs)


def test_rows_are_compared_by_token_and_a_swapped_token_counts_as_part_of_the_ranking(tiny_bundle: Path) -> None:
    """9 visual tokens, 3 of them kept: one other token is a third of the ranking, and its row is nobody's."""

    def swap(outputs: dict[str, Array]) -> dict[str, Array]:
        kept = outputs["kept_indices"]
        if len(kept) < 9:
            outputs["kept_indices"] = np.append(kept[1:], next(i for i in range(9) if i not in kept))
            outputs["visual_tokens"] = np.concatenate([outputs["visual_tokens"][1:], outputs["visual_tokens"][:1]])
        return outputs

    rows = {row.output: row for row in check(tiny_bundle, "pruner", "stc_dual_anchor", swap)[1].outputs}
    assert rows["kept_indices"].max_rel == pytest.approx(1 / 3)
    assert not rows["kept_indices"].passed
    assert rows["visual_tokens"].passed

    def reorder(outputs: dict[str, Array]) -> dict[str, Array]:
        few = len(outputs["kept_indices"]) < 9
        return {n: v[::-1] if few and n == "visual_tokens" else v for n, v in outputs.items()}

    rows = {row.output: row for row in check(tiny_bundle, "pruner", "stc_dual_anchor", reorder)[1].outputs}
    assert rows["kept_indices"].passed
    assert not rows["visual_tokens"].passed


def test_missing_output_is_a_misfit(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r'goldens of "graphs/llm\.onnx" \(prefill\) do not fit'):
        check(tiny_bundle, "llm", "default", lambda o: {"logits": o["logits"]})


# --- hostile input ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle / "goldens", tmp_path / "goldens")
    return tmp_path


def edited(root: Path, edit: Callable[[Any], None]) -> Path:
    data = json.loads((root / INDEX_NAME).read_text())
    edit(data)
    (root / INDEX_NAME).write_text(json.dumps(data))
    return root


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["cases"][0]["inputs"][0].update(offset_bytes=10**9),
        lambda d: d["cases"][0]["inputs"][0].update(offset_bytes=-1),
        lambda d: d["cases"][0]["inputs"][0].update(shape=[-1, 5]),
        lambda d: d["cases"][0]["inputs"][0].update(shape=[2**40, 2**40]),
        lambda d: d["cases"][0]["inputs"][0].update(output="features"),
        lambda d: d["cases"][0]["outputs"][0].update(stride=0),
        lambda d: d["cases"][0]["outputs"][0].update(stride=-3),
        lambda d: d["cases"][0]["outputs"][0].update(offset_bytes=10**9),
        lambda d: d["cases"][0]["outputs"][0].update(scale=-1.0),
        lambda d: d["cases"][0]["outputs"][0].update(tolerance=-1.0),
        lambda d: d["cases"][0]["outputs"][0].update(kind="rows"),
        lambda d: d["cases"][0]["outputs"][0].update(kind="guess"),
        lambda d: d["cases"][0]["outputs"][0].update(dtype="object"),
        lambda d: d.update(extra=1),
        lambda d: d.pop("backend"),
        lambda d: d["cases"].append(None),
    ],
)
def test_index_that_lies_is_refused(copy: Path, edit: Callable[[Any], None]) -> None:
    with pytest.raises(BundleError, match="goldens"):
        Goldens.open(edited(copy, edit))


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["cases"][0]["inputs"][0].update(name="another"),
        lambda d: d["cases"][0]["inputs"].pop(),
        lambda d: d["cases"][0]["outputs"].pop(),
        lambda d: d["cases"][0]["inputs"][0].update(shape=[1]),
    ],
)
def test_index_of_another_graph_is_a_misfit(copy: Path, tiny_bundle: Path, edit: Callable[[Any], None]) -> None:
    goldens = Goldens.open(edited(copy, edit))
    graph = read_manifest(tiny_bundle).graph("cacher_gate")
    with pytest.raises(BundleError, match="do not fit the graph"):
        run_goldens(goldens, graph.file, OrtBackend().open(tiny_bundle, graph), lambda _case, _run: None)


def test_data_that_was_cut_is_refused(copy: Path) -> None:
    data = (copy / DATA_NAME).read_bytes()
    (copy / DATA_NAME).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match="outside the data"):
        Goldens.open(copy)


@pytest.mark.parametrize("name", [INDEX_NAME, DATA_NAME])
def test_bundle_without_goldens_says_so(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match="has no goldens to check engines with"):
        Goldens.open(copy)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_index_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("goldens")
    (root / "goldens").mkdir()
    (root / INDEX_NAME).write_bytes(data)
    (root / DATA_NAME).write_bytes(b"")
    with pytest.raises(BundleError):
        Goldens.open(root)
