"""A build that takes a second, and something at the place where it writes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest, BuildResult
from stc_export.spec.progress import Silent
from tests.stc_export.pipeline import quick

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def build(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., BuildResult]:
    """Build the tiny checkpoint to ``tmp_path/x.stc`` without tracing."""
    quick.install(monkeypatch, tiny_bundle)
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc")
    return lambda **changes: run_build(replace(request, **changes), Silent())


@pytest.fixture
def existing(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle at the place where ``build`` writes, with a file of the user's own."""
    out = shutil.copytree(tiny_bundle, tmp_path / "x.stc")
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    return out
