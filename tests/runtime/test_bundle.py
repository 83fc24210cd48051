"""Reading a bundle: whatever is wrong with it is a BundleError, when it is opened and not later."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from stc_export.spec.errors import BundleError, StcError
from stc_export.spec.manifest import MAX_MANIFEST_BYTES, Manifest, manifest_to_text
from stc_runtime import Bundle, Model, StreamSession
from stc_runtime import bundle as reader
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import scene

FRAME = scene(1)[0]


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy.stc")


def problem_of(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert caught.value.fix
    return caught.value.problem


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the parsed manifest and write it back."""
    file = path / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    del data["sha256"]  # as one would who wants it to be believed
    change(data)
    file.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def test_good_bundle_opens_with_its_manifest_and_tables(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert manifest_to_text(bundle.manifest) == (tiny_bundle / "manifest.json").read_text(encoding="utf-8")
    table = bundle.table("embed")
    assert (table.shape, table.dtype) == ((512, 48), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1.0


@pytest.mark.parametrize("path", ["nothing.stc", "x" * 5000, "a\0b", "file.txt", "folder"])
def test_what_is_no_bundle_raises(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("{}", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    expected = (
        "There is no bundle|is a file; a bundle is a directory|is not a bundle: it has no manifest.json|cannot be"
    )
    assert re.search(expected, problem_of(tmp_path / path))


MANIFESTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not JSON"),
    "binary": (b"\xff\xfe\x00", "cannot be read"),
    "list": (b"[]", 'is not a bundle: its manifest has no schema "stc.bundle/1"'),
    "other": (b'{"schema": "other/1"}', "is not a bundle"),
    "number": (b'{"schema": 1}', "is not a bundle"),
    "newer": (b'{"schema": "stc.bundle/2"}', 'has schema "stc.bundle/2", this version reads "stc.bundle/1"'),
    "nothing but schema": (b'{"schema": "stc.bundle/1"}', 'document lacks the key "writer"'),
    "deep": (b'{"schema": ' + b"[" * 100_000, "is not JSON"),
    "huge number": (b'{"schema": "stc.bundle/1", "writer": ' + b"1" * 10_000 + b"}", "manifest"),
}


@pytest.mark.parametrize("case", list(MANIFESTS.values()), ids=list(MANIFESTS))
def test_manifest_that_is_none_raises(tmp_path: Path, case: tuple[bytes, str]) -> None:
    data, expected = case
    (tmp_path / "manifest.json").write_bytes(data)
    assert expected in problem_of(tmp_path)


def test_manifest_that_is_too_large_is_not_read(copy: Path) -> None:
    os.truncate(copy / "manifest.json", MAX_MANIFEST_BYTES + 1)
    assert problem_of(copy) == (
        f'The manifest of "{copy}" cannot be read (it is larger than any of its kind, which have at most 16,777,216 '
        "bytes)."
    )


def test_manifest_that_is_a_link_or_no_plain_file_is_not_read(copy: Path, tmp_path: Path) -> None:
    (copy / "manifest.json").rename(tmp_path / "elsewhere.json")
    (copy / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    assert problem_of(copy) == f'The manifest of "{copy}" is a link.'
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    assert problem_of(copy) == f'The manifest of "{copy}" cannot be read (it is not a plain file).'


EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda d: d.update(extra=1), 'document has the unknown key "extra"'),
    "unknown inner key": (lambda d: d["dims"]["text"].update(code="x"), 'dims.text has the unknown key "code"'),
    "missing key": (lambda d: d.pop("parity"), 'document lacks the key "parity"'),
    "other type": (lambda d: d["dims"]["text"].update(layers="2"), 'dims.text.layers is the text "2"'),
    "other choice": (lambda d: d["graphs"][0].update(role="code"), 'graphs[0].role is "code"'),
    "bad policy": (lambda d: d["policy"]["pruner"].update(keep=2.0), "pruner.keep is 2"),
    "listed twice": (lambda d: d["files"].append(d["files"][0]), "lists a file twice"),
    "not listed": (lambda d: d["files"].pop(), "but does not list it"),
    "wrong size": (lambda d: d["files"][0].update(size_bytes=1), "is not the file of 1 bytes that was built"),
    "negative size": (lambda d: d["files"][0].update(size_bytes=-1), "is not the file of -1 bytes"),
    "wrong digest": (lambda d: d["files"][0].update(sha256="0" * 64), "was altered"),
}


@pytest.mark.parametrize("case", list(EDITS.values()), ids=list(EDITS))
def test_edited_manifest_raises(copy: Path, case: tuple[Callable[[dict[str, Any]], object], str]) -> None:
    change, expected = case
    edit(copy, change)
    assert expected in problem_of(copy)


@pytest.mark.parametrize(
    "path",
    [
        *("../outside.bin", "/etc/hostname", "graphs/../../outside.bin", "./a", "a//b", "", ".", "manifest.json"),
        *("a\\b", "C:x", "graphs/", "\u00e4", "a\0b", "-rf", "a\nb", "a\n"),
    ],
)
def test_path_that_is_not_plainly_inside_raises_although_the_file_exists(copy: Path, path: str) -> None:
    (copy.parent / "outside.bin").write_bytes(b"x")
    entry = {"path": path, "size_bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edit(copy, lambda data: data["files"].append(entry))
    assert "which is not a plain path inside a bundle" in problem_of(copy)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def grown(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"x")


def altered(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def linked(file: Path) -> None:
    kept = file.rename(file.parent.parent / "elsewhere.bin")
    file.symlink_to(kept)


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replaced_by_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, '"{name}" is missing from "{root}".'),
    (truncated, '"{name}" in "{root}" is not the file of {size:,} bytes that was built.'),
    (grown, '"{name}" in "{root}" is not the file of {size:,} bytes that was built.'),
    (altered, '"{name}" in "{root}" was altered.'),
    (linked, '"{name}" in "{root}" is a link.'),
    (replaced_by_a_folder, '"{name}" in "{root}" is not the file of {size:,} bytes that was built.'),
    (replaced_by_a_pipe, '"{name}" in "{root}" is not the file of {size:,} bytes that was built.'),
]


@pytest.mark.parametrize("name", ["graphs/llm.weights", "graphs/vit.gate.onnx", "tokenizer.json"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage[0].__name__)
def test_damaged_file_raises(copy: Path, name: str, damage: tuple[Callable[[Path], object], str]) -> None:
    act, expected = damage
    size = (copy / name).stat().st_size
    act(copy / name)
    assert problem_of(copy) == expected.format(name=name, root=copy, size=size)


def test_folder_that_is_a_link_raises(copy: Path) -> None:
    kept = (copy / "graphs").rename(copy.parent / "elsewhere")
    (copy / "graphs").symlink_to(kept)
    assert problem_of(copy).endswith(f'in "{copy}" is a link.')


def test_file_that_nobody_lists_is_ignored(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine", encoding="utf-8")
    (copy / "link").symlink_to("/etc/hostname")
    Bundle.open(copy)


def test_large_file_is_checked_by_size_only_when_opened(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(copy / "graphs/llm.weights")
    monkeypatch.setattr(reader, "HASHED_WHEN_OPENED_BYTES", 100_000)
    Bundle.open(copy)
    truncated(copy / "graphs/llm.weights")
    assert "is not the file of" in problem_of(copy)


@pytest.mark.parametrize("offset", [-1, 102_400 - 512 * 48 * 4 + 4, 2**52])
def test_table_outside_its_file_raises_when_the_model_is_opened(copy: Path, offset: int) -> None:
    edit(copy, lambda data: data["tables"][0].update(offset_bytes=offset))
    with pytest.raises(BundleError) as caught:
        Model.open(copy, FakeBackend())
    assert caught.value.problem == 'The table "embed" does not lie inside "graphs/embed.weights".'


def replace_graph(copy: Path, data: bytes) -> None:
    """Put something in the place of a graph, with its digest."""
    file = copy / "graphs/vit.gate.onnx"
    file.write_bytes(data)

    def sign(manifest: dict[str, Any]) -> None:
        (entry,) = (entry for entry in manifest["files"] if entry["path"] == "graphs/vit.gate.onnx")
        entry.update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    edit(copy, sign)


def test_graph_of_garbage_with_its_digest_raises_before_it_is_opened(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_graph(copy, np.random.default_rng(0).bytes(5000))
    model = Model.open(copy)
    monkeypatch.setattr(type(model.backend), "open", lambda *_: pytest.fail("the backend has seen it"))
    with pytest.raises(BundleError) as caught:
        model.engine("vit", "gate")
    problem = caught.value.problem
    assert problem.startswith(f'"graphs/vit.gate.onnx" in "{copy}" is not a graph that is run here: it is ')


def test_file_without_a_graph_raises_when_it_is_needed(copy: Path) -> None:
    replace_graph(copy, b"\x08\x0a")  # "this is version 10 of the format", and nothing else
    model = Model.open(copy)
    with pytest.raises(BundleError) as caught:
        StreamSession(model)
    assert caught.value.problem.startswith('ONNX Runtime cannot open "graphs/vit.gate.onnx" (')
    assert "\n" not in caught.value.problem


@pytest.fixture(scope="module")
def target(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Manifest]:
    """A bundle whose manifest is written anew for every example, with the original."""
    path = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("altered") / "bundle.stc")
    edit(path, lambda _: None)
    return path, (path / "manifest.json").read_bytes(), Bundle.open(path).manifest


def leaves(value: object, path: str = "") -> dict[str, object]:
    """Every value of a manifest that is not a record or a list, by its place."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{path}[{i}]").items()}
    return {path: value}


def check_altered(target: tuple[Path, bytes, Manifest], data: bytes) -> None:
    """A manifest either cannot be opened, or says the same but for one value, and then a stream runs or refuses."""
    path, _, original = target
    (path / "manifest.json").write_bytes(data)
    try:
        model = Model.open(path, FakeBackend())
    except BundleError:
        return
    before, after = leaves(asdict(original)), leaves(asdict(model.manifest))
    assert before.keys() == after.keys()
    assert sum(before[key] != after[key] for key in before) <= 1
    try:
        session = StreamSession(model)
        session.push(FRAME, 0.0)
        list(session.ask_tokens([1, 2], max_tokens=2))
    except StcError:
        return


several = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


@several
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_byte_of_the_manifest_changed_is_refused_or_harmless(
    target: tuple[Path, bytes, Manifest], place: float, byte: int
) -> None:
    data = bytearray(target[1])
    data[int(place * len(data))] = byte
    check_altered(target, bytes(data))


@several
@given(place=st.floats(0, 1, exclude_max=True), digit=st.sampled_from(b"0123456789-"))
def test_any_digit_of_a_number_in_the_manifest_changed_is_refused_or_harmless(
    target: tuple[Path, bytes, Manifest], place: float, digit: int
) -> None:
    data = bytearray(target[1])
    numbers = [
        i
        for match in re.finditer(rb"^ *(?:\"\w+\": )?-?([0-9.e-]+),?$", data, re.MULTILINE)
        for i in range(*match.span(1))
    ]
    data[numbers[int(place * len(numbers))]] = digit
    check_altered(target, bytes(data))


@several
@given(place=st.floats(0, 1, exclude_max=True), value=st.sampled_from([0, -1, 3, 10**6, 0.5, "x", "", None, True, []]))
def test_any_value_of_the_manifest_replaced_is_refused_or_harmless(
    target: tuple[Path, bytes, Manifest], place: float, value: object
) -> None:
    data = json.loads(target[1])
    places = list(leaves(data))
    keys = re.findall(r"\.(\w+)|\[(\d+)\]", places[int(place * len(places))])
    *way, last = [name or int(number) for name, number in keys]
    inner = data
    for key in way:
        inner = inner[key]
    inner[last] = value
    check_altered(target, json.dumps(data).encode())
