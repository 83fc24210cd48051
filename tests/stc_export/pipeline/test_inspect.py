from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.types import FileFault, SharedWeights
from stc_export.spec.errors import BundleError
from tests.stc_export.pipeline.small_bundle import FILES, small_manifest, write_small_bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "tiny.stc")


def test_inspect_whole_bundle_is_ok_with_total_size(bundle: Path) -> None:
    result = inspect(bundle)
    assert (result.ok, result.missing, result.altered, result.unlisted) == (True, (), (), ())
    assert result.total_bytes == sum(len(data) for data in FILES.values())
    assert result.manifest == small_manifest()


def test_inspect_weights_used_twice_names_both_graphs_largest_first(bundle: Path) -> None:
    assert inspect(bundle).weights == (
        SharedWeights("weights/vit.bin", 10240, ("cacher_gate/default", "vit/gate")),
        SharedWeights("weights/gate.bin", 100, ("cacher_gate/default",)),
    )


def test_inspect_one_changed_byte_reports_the_file(bundle: Path) -> None:
    data = bytearray(FILES["weights/vit.bin"])
    data[-1] ^= 1
    (bundle / "weights/vit.bin").write_bytes(data)
    result = inspect(bundle)
    assert not result.ok
    assert result.altered == (FileFault("weights/vit.bin", "the content differs (SHA-256)"),)


def test_inspect_truncated_and_missing_files_reports_each(bundle: Path) -> None:
    (bundle / "embed.bin").write_bytes(b"e" * 10)
    (bundle / "vit.onnx").unlink()
    result = inspect(bundle)
    assert result.altered == (FileFault("embed.bin", "10 bytes, expected 64"),)
    assert result.missing == ("vit.onnx",)


def test_inspect_link_to_the_same_content_is_refused(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    (bundle / "embed.bin").rename(outside)
    (bundle / "embed.bin").symlink_to(outside)
    assert inspect(bundle).altered == (FileFault("embed.bin", '"embed.bin" is a link'),)


def test_inspect_linked_folder_is_refused_for_each_file_in_it(bundle: Path, tmp_path: Path) -> None:
    (bundle / "weights").rename(tmp_path / "elsewhere")
    (bundle / "weights").symlink_to(tmp_path / "elsewhere")
    assert [fault.problem for fault in inspect(bundle).altered] == ['"weights" is a link'] * 2


def test_inspect_pipe_and_folder_in_place_of_files_does_not_wait(bundle: Path) -> None:
    (bundle / "embed.bin").unlink()
    os.mkfifo(bundle / "embed.bin")
    (bundle / "vit.onnx").unlink()
    (bundle / "vit.onnx").mkdir()
    assert {fault.problem for fault in inspect(bundle).altered} == {"not a plain file"}


def test_inspect_file_where_a_folder_is_expected_is_altered(bundle: Path) -> None:
    (bundle / "weights/vit.bin").unlink()
    (bundle / "weights/gate.bin").unlink()
    (bundle / "weights").rmdir()
    (bundle / "weights").write_bytes(b"")
    assert {fault.path for fault in inspect(bundle).altered} == {"weights/vit.bin", "weights/gate.bin"}


def test_inspect_extra_files_and_links_are_listed_but_do_not_break_it(bundle: Path) -> None:
    (bundle / "engines").mkdir()
    (bundle / "engines/note.txt").write_text("x", encoding="utf-8")
    (bundle / "loop").symlink_to(bundle)
    result = inspect(bundle)
    assert (result.ok, result.unlisted) == (True, ("engines/note.txt", "loop"))


def test_inspect_reports_every_byte_it_read(bundle: Path) -> None:
    amounts: list[int] = []

    class Recorder:
        def stage(self, name: str, total: int | None = None, unit: str = ""):
            from contextlib import nullcontext

            assert (total, unit) == (sum(len(data) for data in FILES.values()), "B")
            return nullcontext(amounts.append)

        def note(self, text: str) -> None:
            raise AssertionError(text)

    inspect(bundle, Recorder())
    assert sum(amounts) == sum(len(data) for data in FILES.values())


@pytest.mark.parametrize("kind", ["nothing", "file", "empty", "not json", "other schema", "newer", "binary", "linked"])
def test_inspect_no_bundle_raises_bundle_error(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "x.stc"
    if kind == "file":
        place.write_bytes(b"x")
    elif kind != "nothing":
        place.mkdir()
    contents = {
        "not json": b"{",
        "other schema": b'{"schema": "else"}',
        "newer": b'{"schema": "stc.bundle/2"}',
        "binary": b"\xff",
    }
    if kind in contents:
        (place / "manifest.json").write_bytes(contents[kind])
    if kind == "linked":
        (place / "manifest.json").symlink_to(write_small_bundle(tmp_path / "real") / "manifest.json")
    with pytest.raises(BundleError) as caught:
        inspect(place)
    assert str(place) in caught.value.problem
    assert caught.value.exit_code == 2


def test_inspect_path_that_leaves_the_bundle_raises_bundle_error(bundle: Path) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["files"].append({"path": "../secret", "size_bytes": 1, "sha256": "0" * 64})
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match=r"\.\./secret"):
        inspect(bundle)
