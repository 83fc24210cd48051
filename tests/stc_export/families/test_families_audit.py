"""Every row of the tables of families, pruning methods and selections has its tests; a new one without them fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from stc_export.exporter.graphs import GraphForm
from stc_export.exporter.preprocess import Preprocessing
from stc_export.families import FAMILIES
from stc_export.families.base import Family
from stc_export.families.llava_onevision.metrics import METRICS
from stc_export.pruners import PRUNERS
from stc_export.spec.manifest import BUILD_FLAGS, SELECTION_INPUTS, PreprocessSpec, Role
from stc_export.spec.policy import METRIC_NAMES, SELECTIONS
from tests.reference import selective_vit
from tests.reference.metrics import similarity
from tests.reference.pruners import REFERENCES
from tests.stc_export.families.llava_onevision.test_config import PUBLISHED

HERE = Path(__file__).parent
ROLES = get_args(Role)


def text(family: str, name: str) -> str:
    file = HERE / family / name
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def faults_of_family(family: Family) -> list[str]:
    """What is missing: its config tests, full passes against transformers for each role, selective ones."""
    full, selective = text(family.name, "test_full.py"), text(family.name, "test_selective.py")
    wanted = {
        "test_config.py: UnsupportedError": "UnsupportedError" in text(family.name, "test_config.py"),
        "test_full.py: transformers": "transformers" in full,
        **{f"test_full.py: {role}": f'"{role}"' in full for role in ROLES},
        "test_selective.py: reference": "tests.reference" in selective,
        "test_selective.py: every selection": 'parametrize("selection", SELECTIONS)' in selective,
    }
    return [name for name, there in wanted.items() if not there]


def faults_of_pruner(name: str) -> list[str]:
    """What is missing: a plain version in tests/reference, and a comparison with transformers in every family."""
    faults = [] if name in REFERENCES else ["tests/reference/pruners.py"]
    return faults + [family.name for family in FAMILIES if f'"{name}"' not in text(family.name, "test_full.py")]


def faults_of_selection(name: str) -> list[str]:
    """What is missing: a plain version in tests/reference, and the name of its input."""
    faults = [] if callable(getattr(selective_vit, name, None)) else ["tests/reference/selective_vit.py"]
    return faults if name in SELECTION_INPUTS else [*faults, "SELECTION_INPUTS"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_has_all_its_tests(family: Family) -> None:
    assert faults_of_family(family) == []


@pytest.mark.parametrize("name", [method.name for method in PRUNERS])
def test_pruning_method_has_all_its_tests(name: str) -> None:
    assert faults_of_pruner(name) == []


@pytest.mark.parametrize("name", SELECTIONS)
def test_selection_has_all_its_tests(name: str) -> None:
    assert faults_of_selection(name) == []


def test_new_row_without_tests_fails() -> None:
    assert len(faults_of_family(replace(FAMILIES[0], name="qwen9_vl"))) == len(ROLES) + 4
    assert faults_of_pruner("vidcom9") == ["tests/reference/pruners.py", "llava_onevision"]
    assert faults_of_selection("per_head") == ["tests/reference/selective_vit.py", "SELECTION_INPUTS"]


def test_tables_have_no_name_twice() -> None:
    for names in (
        [family.name for family in FAMILIES],
        [architecture for family in FAMILIES for architecture in family.architectures],
        [method.name for method in PRUNERS],
        list(SELECTIONS),
    ):
        assert len(set(names)) == len(names)


def test_every_metric_has_a_formula_an_independent_one_and_a_flag() -> None:
    rows = np.ones((2, 3))
    assert [name for name in METRIC_NAMES if np.isfinite(similarity(name, rows, rows)).all()] == list(METRICS)
    for role in ("cacher_gate", "vit"):
        assert BUILD_FLAGS[role] == {name: f"--metrics {name}" for name in METRIC_NAMES if name != "cosine"}


def test_selections_of_policies_and_manifests_are_the_same() -> None:
    assert set(SELECTIONS) == set(SELECTION_INPUTS)


def test_split_model_has_a_graph_for_every_role_selection_and_pruning_method() -> None:
    model = FAMILIES[0].read(PUBLISHED, "x")
    split = model.split(
        GraphForm("base", "float16", 64), Preprocessing(PreprocessSpec(384, "bicubic"), (0.5,) * 3, (0.5,) * 3)
    )
    found = {(graph.role, graph.variant) for graph in split.graphs}
    assert found == {
        ("cacher_gate", "default"),
        ("llm", "default"),
        *(("vit", name) for name in SELECTIONS),
        *(("pruner", method.name) for method in PRUNERS),
    }
    assert [entry.method for entry in split.pruners] == [method.name for method in PRUNERS]
    assert {graph.role for graph in split.graphs} == set(ROLES)
