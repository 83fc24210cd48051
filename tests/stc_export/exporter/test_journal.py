"""Weight files that were cut short: what is whole is kept, all else is written again, and the bytes are the same."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from stc_calib.schemes import SCHEMES
from stc_export.exporter import weights as weights_module
from stc_export.exporter.checkpoint import Checkpoint, TensorInfo, read_checkpoint
from stc_export.exporter.journal import file_of, journal_of, journals, mark, resume
from stc_export.exporter.scaled import ScaledCheckpoint
from stc_export.exporter.weight_output import ALIGNMENT
from stc_export.exporter.weights import WeightRecipe, WrittenFile, write_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

#: Constants need no checkpoint: four tensors of one, two, one and three pages.
RECIPES = tuple(
    WeightRecipe(name, "float32", (pages * ALIGNMENT // 4 - 5,), values=np.arange(pages * 1024 - 5, dtype=np.float32))
    for name, pages in (("a", 1), ("b", 2), ("c", 1), ("d", 3))
)
ENDS = [ALIGNMENT * pages for pages in (1, 3, 4, 7)]


def write(directory: Path, recipes: tuple[WeightRecipe, ...] = RECIPES) -> WrittenFile:
    return write_weights(Checkpoint(directory, {}, {}), recipes, directory / "w.weights", lambda _bytes: None)


class Written:
    """Counts the tensors that are made."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        blocks = weights_module._blocks

        def counted(checkpoint: Checkpoint, recipe: WeightRecipe) -> Iterator[NDArray[np.float32]]:
            self.names.append(recipe.name)
            return blocks(checkpoint, recipe)

        patch.setattr(weights_module, "_blocks", counted)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write(folder)
    return folder


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, ENDS[-1]), marks=st.integers(0, 4), torn=st.booleans())
def test_file_cut_anywhere_is_completed_to_the_same_bytes(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, cut: int, marks: int, torn: bool
) -> None:
    """However much of file and journal reached the disk, and if the last line of the journal is half there."""
    folder = tmp_path_factory.mktemp("cut")
    data = (whole / "w.weights").read_bytes()
    (folder / "w.weights").write_bytes(data[:cut])
    lines = journal_of(whole / "w.weights").read_text().splitlines(keepends=True)
    text = "".join(lines[: 1 + marks])
    journal_of(folder / "w.weights").write_text(text[:-3] if torn else text)
    with pytest.MonkeyPatch.context() as patch:
        made = Written(patch)
        result = write(folder)
    assert (folder / "w.weights").read_bytes() == data
    assert (result.size_bytes, result.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    vouched = max(0, marks - torn)
    kept = sum(end <= cut for end in ENDS[:vouched])
    assert made.names == ["a", "b", "c", "d"][kept:]
    assert journal_of(folder / "w.weights").read_text() == "".join(lines)


@pytest.mark.parametrize(("place", "kept"), [(0, 0), (ALIGNMENT, 1), (3 * ALIGNMENT - 1, 1), (4 * ALIGNMENT, 3)])
def test_what_follows_a_changed_byte_is_written_again(
    whole: Path, tmp_path: Path, made: Written, place: int, kept: int
) -> None:
    folder = shutil.copytree(whole, tmp_path / "changed")
    data = bytearray((folder / "w.weights").read_bytes())
    data[place] ^= 1
    (folder / "w.weights").write_bytes(data)
    write(folder)
    assert made.names == ["a", "b", "c", "d"][kept:]
    assert (folder / "w.weights").read_bytes() == (whole / "w.weights").read_bytes()


def test_whole_file_is_verified_and_nothing_is_written(whole: Path, tmp_path: Path, made: Written) -> None:
    folder = shutil.copytree(whole, tmp_path / "same")
    before = (folder / "w.weights").stat()
    assert write(folder).sha256 == hashlib.sha256((whole / "w.weights").read_bytes()).hexdigest()
    assert made.names == []
    assert (folder / "w.weights").stat().st_ino == before.st_ino


def test_other_values_or_names_are_written_from_the_start(whole: Path, tmp_path: Path, made: Written) -> None:
    folder = shutil.copytree(whole, tmp_path / "other")
    recipes = (*RECIPES[:3], WeightRecipe("e", "float32", (2,), values=np.ones(2, np.float32)))
    write(folder, recipes)
    assert made.names == ["a", "b", "c", "e"]
    assert (folder / "w.weights").stat().st_size == ENDS[2] + ALIGNMENT


def test_checkpoint_file_that_was_saved_again_is_read_from_the_start(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(bytes(8))
    checkpoint = Checkpoint(tmp_path, {}, {"a": TensorInfo("a", source, (2,), "F32")})
    recipes = (WeightRecipe("w", "float32", (2,), ("a",)),)
    first = weights_module._made_from(checkpoint, recipes)
    assert weights_module._made_from(checkpoint, recipes) == first
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    assert weights_module._made_from(checkpoint, recipes) != first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key",
        "key\n\n",
        "key\n-1 aa\n",
        "key\n4096\n",
        "key\n5 a\n4 b\n",
        "other\n4096 aa\n",
        "key\n\xff\n",
        "key\n1e3 a\n",
    ],
)
def test_journal_that_is_not_one_vouches_for_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "w.weights"
    file.write_bytes(bytes(ALIGNMENT))
    journal_of(file).write_bytes(text.encode("latin-1"))
    assert resume(file, "key").size_bytes == 0
    assert file.stat().st_size == 0
    assert journal_of(file).read_text() == "key\n"


def test_journals_are_found_beside_their_files(tmp_path: Path) -> None:
    file = tmp_path / "w.weights"
    resume(file, "key")
    file.write_bytes(b"abc")
    mark(file, 3, hashlib.sha256(b"abc"))
    assert [file_of(journal) for journal in journals(tmp_path)] == [file]
    kept = resume(file, "key")
    assert (kept.size_bytes, kept.digest.hexdigest()) == (3, hashlib.sha256(b"abc").hexdigest())


# --- rounded tensors --------------------------------------------------------------------------------------------------

INT4 = SCHEMES["ort"]["llm"]["int4"]
#: A page of codes and one of scales for each rounded tensor, 8 KiB for the others.
FEW_BITS = tuple(
    WeightRecipe(name, "float32", (64, 32), (name,), scheme=INT4 if name in "bd" else None) for name in "abcd"
)
FEW_BITS_ENDS = [ALIGNMENT * pages for pages in (2, 4, 6, 8)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    save_file({name: rng.normal(size=(64, 32)).astype(np.float32) for name in "abcd"}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return read_checkpoint(folder, lambda key: key)


def write_rounded(source: Checkpoint, folder: Path) -> WrittenFile:
    return write_weights(source, FEW_BITS, folder / "w.weights", lambda _bytes: None)


@pytest.fixture(scope="module")
def rounded(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenFile]:
    folder = tmp_path_factory.mktemp("rounded")
    return folder, write_rounded(source, folder)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, FEW_BITS_ENDS[-1]), marks=st.integers(0, 4), torn=st.integers(0, 90))
def test_rounded_file_cut_anywhere_is_completed_with_the_same_errors(
    source: Checkpoint,
    rounded: tuple[Path, WrittenFile],
    tmp_path_factory: pytest.TempPathFactory,
    cut: int,
    marks: int,
    torn: int,
) -> None:
    """The journal may end inside a note; what rounding cost is that of an undisturbed build."""
    folder, whole = rounded
    again = tmp_path_factory.mktemp("cut")
    data = (folder / "w.weights").read_bytes()
    (again / "w.weights").write_bytes(data[:cut])
    lines = journal_of(folder / "w.weights").read_text().splitlines(keepends=True)
    text = "".join(lines[: 1 + marks])
    journal_of(again / "w.weights").write_text(text[: len(text) - torn])
    result = write_rounded(source, again)
    assert (again / "w.weights").read_bytes() == data
    assert replace(result, path=whole.path) == whole
    assert journal_of(again / "w.weights").read_text() == "".join(lines)


@pytest.mark.parametrize("note", ["", " 0x1p-3", " x " + "0" * 64, " inf " + "0" * 64, " 0x1p-3 " + "g" * 64])
def test_what_follows_a_note_that_is_none_is_written_again(
    source: Checkpoint, rounded: tuple[Path, WrittenFile], tmp_path: Path, note: str
) -> None:
    folder, whole = rounded
    again = shutil.copytree(folder, tmp_path / "again")
    lines = journal_of(again / "w.weights").read_text().splitlines()
    lines[2] = " ".join(lines[2].split(" ")[:2]) + note
    journal_of(again / "w.weights").write_text("".join(f"{line}\n" for line in lines))
    assert replace(write_rounded(source, again), path=whole.path) == whole
    assert (again / "w.weights").read_bytes() == (folder / "w.weights").read_bytes()
    assert journal_of(again / "w.weights").read_text() == journal_of(folder / "w.weights").read_text()


def test_other_factors_of_awq_are_another_file(source: Checkpoint) -> None:
    def made_from(**factors: dict[str, NDArray[np.float32]]) -> str:
        scaled = ScaledCheckpoint(source.directory, source.config, source.tensors, **factors)
        return weights_module._made_from(scaled, FEW_BITS)

    two, three = (np.full(32, value, np.float32) for value in (2.0, 3.0))
    keys = [
        made_from(columns={"a": two}),
        made_from(columns={"a": three}),
        made_from(columns={"b": two}),
        made_from(rows={"a": two}),
        weights_module._made_from(source, FEW_BITS),
    ]
    assert made_from(columns={"a": two}) == keys[0]
    assert len(set(keys)) == len(keys)
