"""Files beside a result are refused early."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stc_export.pipeline.output_file import check_output_file
from stc_export.spec.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def refusal(out: Path) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        check_output_file("--picture", out, ".png")
    return caught.value.problem, caught.value.fix


def test_path_that_cannot_be_written_is_refused_with_the_next_step(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.jpg") == (
        f'--picture is "{tmp_path / "a.jpg"}", expected a name that ends in .png.',
        "Name a file: --picture a.png.",
    )
    folder = tmp_path / "b.png"
    folder.mkdir()
    assert refusal(folder) == (
        f'--picture is "{folder}", which is a directory.',
        f"Name a file: --picture {folder}/x.png.",
    )
    missing = tmp_path / "no" / "c.png"
    assert refusal(missing) == (f'The directory "{missing.parent}" of --picture is missing.', "Create it first.")


def test_path_in_a_directory_that_may_not_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A superuser may write anywhere, so what the system says is made up here.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert refusal(tmp_path / "a.png") == (
        f'The directory "{tmp_path}" of --picture may not be written.',
        "Choose another place.",
    )


def test_path_that_can_be_written_passes(tmp_path: Path) -> None:
    (tmp_path / "old.PNG").write_bytes(b"old")
    check_output_file("--picture", tmp_path / "old.PNG", ".png")
    check_output_file("--picture", tmp_path / "new.png", ".png")
