"""ONNX Runtime on a GPU gives what it gives on the CPU. The CPU goes through the same checks everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stc_engines import open_backend
from tests.device.checks import answers, bundle_for, failures, golden_rows

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.world.splits import Quiz


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def target(request: pytest.FixtureRequest) -> str:
    """Target whose backend runs the graphs."""
    name: str = request.param
    return name


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_bundle_fp16", "demo_bundle"])
def test_graphs_give_the_goldens(name: str, target: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bundle = bundle_for(request.getfixturevalue(name), target, tmp_path / "here.stc")
    assert failures(bundle, golden_rows(bundle, open_backend(bundle))) == []


def test_stream_with_questions_gives_the_tokens_of_the_cpu(
    target: str, demo_bundle: Path, tmp_path: Path, quizzes: tuple[Quiz, ...]
) -> None:
    bundle = bundle_for(demo_bundle, target, tmp_path / "here.stc")
    expected = answers(demo_bundle, open_backend(demo_bundle, threads=1), quizzes[0])
    assert answers(bundle, open_backend(bundle), quizzes[0]) == expected
