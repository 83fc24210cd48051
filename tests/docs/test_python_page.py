"""The examples of docs/python.md run, in order, on a real bundle and a video."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from stc_export.spec.report import FrameReport, MemoryUse
from tests.docs.pages import DOCS, blocks, code, prose
from tests.videos import write_moving_square

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PAGE = DOCS / "python.md"


def test_examples_run_in_order(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.stc").symlink_to(tiny_bundle)
    write_moving_square(tmp_path / "street.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs_python"}
    for number, block in enumerate(blocks(PAGE, "python"), start=1):
        exec(compile(block, f"docs/python.md block {number}", "exec"), names)
    assert len(names["counts"]) == 2


def test_page_names_every_field_of_the_reports() -> None:
    fields = [field.name for part in (FrameReport, MemoryUse) for field in dataclasses.fields(part)]
    text = " ".join(code(prose(PAGE)))
    assert [name for name in fields if name not in text] == []
