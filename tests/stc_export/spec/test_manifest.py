"""The manifest: canonical when written, strict when read."""

from __future__ import annotations

import json
import os.path
from dataclasses import fields, replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import FileEntry, Manifest, manifest_from_text, manifest_to_text
from tests.stc_export.pipeline.small_bundle import small_manifest

MANIFEST = small_manifest()
TEXT = manifest_to_text(MANIFEST)
ESCAPES = (
    "../x",
    "/x",
    "a/../b",
    "a//b",
    "a/",
    "a/./b",
    "./a",
    ".",
    "..",
    "",
    " ",
    "a b",
    "a\\b",
    "C:a",
    "a\0b",
    "a\n",
    "~/a",
    ".hidden",
    "-rf",
    "a/-rf",
    "manifest.json",
    "ä",
    "$HOME/x",
    "x" * 70_000 + "/../y",
)
ANY_VALUE = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.text(max_size=4) | st.just([])


def plain() -> dict[str, Any]:
    """A manifest to change, without its digest."""
    data = json.loads(TEXT)
    del data["sha256"]
    return data


def refusal(data: Any) -> BundleError:
    with pytest.raises(BundleError) as caught:
        manifest_from_text(data if isinstance(data, str) else json.dumps(data), "my.stc")
    assert "my.stc" in caught.value.problem
    assert len(caught.value.problem) < 500
    return caught.value


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in pairs for found in ((*path, key), *places(value, (*path, key)))]


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Replace the value at a place and return what was there."""
    for key in path[:-1]:
        data = data[key]
    old, data[path[-1]] = data[path[-1]], value
    return old


def test_text_of_equal_manifests_is_equal_and_read_back() -> None:
    assert manifest_to_text(small_manifest()) == TEXT
    assert manifest_from_text(TEXT, "x") == MANIFEST
    assert manifest_to_text(manifest_from_text(TEXT, "x")) == TEXT


def test_text_has_sorted_keys_and_every_field_of_the_manifest() -> None:
    keys = list(plain())
    assert keys == sorted(field.name for field in fields(Manifest))
    assert TEXT.endswith("}\n")


@settings(max_examples=300)
@given(st.data())
def test_one_changed_place_reads_as_another_manifest_or_is_refused(data: st.DataObject) -> None:
    changed = plain()
    value = data.draw(ANY_VALUE)
    old = put(changed, data.draw(st.sampled_from(places(plain()))), value)
    assume(value != old)
    try:
        found = manifest_from_text(json.dumps(changed), "x")
    except BundleError:
        return
    assert found != MANIFEST


@given(st.data())
def test_one_key_less_is_refused_unless_it_has_a_default(data: st.DataObject) -> None:
    changed = plain()
    path = data.draw(st.sampled_from([p for p in places(plain()) if isinstance(p[-1], str)]))
    owner = changed
    for key in path[:-1]:
        owner = owner[key]
    del owner[path[-1]]
    if path[0] == "policy" and len(path) > 1:  # all keys of a policy have defaults
        assert manifest_from_text(json.dumps(changed), "x").policy == MANIFEST.policy
    elif path[0] == "prompt" and path[-1] in ("text", "token"):
        assert manifest_from_text(json.dumps(changed), "x") == MANIFEST
    else:
        refusal(changed)


def test_one_key_more_in_any_object_is_refused_by_name() -> None:
    for path in [(), *places(plain())]:
        changed = owner = plain()
        for key in path:
            owner = owner[key]
        if isinstance(owner, dict):
            owner["exec"] = "code"
            assert 'has the unknown key "exec". ' in refusal(changed).problem


@pytest.mark.parametrize("schema", ["stc.bundle/2", "stc.bundle/10", "stc.bundle/1.1", "stc.bundle/"])
def test_other_schema_version_is_refused_whatever_else_the_file_holds(schema: str) -> None:
    error = refusal({"schema": schema, "new": True})
    assert error.problem == f'"my.stc" has schema "{schema}", this version reads "stc.bundle/1".'
    assert error.fix == "Update stc-export, or build the bundle again."


@pytest.mark.parametrize("text", ["{}", "[]", "null", "1", '"stc.bundle/1"', '{"schema": 1}', '{"schema": "else"}'])
def test_json_without_our_schema_is_not_a_bundle(text: str) -> None:
    assert refusal(text).problem == '"my.stc" is not a bundle: its manifest has no schema "stc.bundle/1".'


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"schema": ' + "9" * 5000 + "}", "\ufeff{}"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    assert refusal(text).problem.startswith('The manifest of "my.stc" is not JSON (')


def test_duplicate_key_is_refused() -> None:
    assert 'key "writer" appears twice' in refusal(TEXT.replace("{", '{"writer": "x", ', 1)).problem


@pytest.mark.parametrize("path", ESCAPES, ids=lambda path: repr(path[:20]))
def test_path_that_is_not_plain_is_refused(path: str) -> None:
    changed = plain()
    changed["files"].append({"path": path, "size_bytes": 1, "sha256": "0" * 64})
    assert (
        refusal(changed).problem == f'"my.stc" lists the path "{path[:80]}", which is not a plain path inside a bundle.'
    )


@given(st.text(alphabet="aZ09_.-/\\ ~:\0ä", max_size=12))
def test_any_accepted_path_stays_inside_and_has_one_spelling(path: str) -> None:
    changed = replace(MANIFEST, files=(*MANIFEST.files, FileEntry(path, 1, "0" * 64)))
    try:
        manifest_from_text(manifest_to_text(changed), "x")
    except BundleError:
        return
    assert os.path.normpath(f"/root/{path}") == f"/root/{path}"
    assert all(part.isascii() and part[0] not in ".-~" for part in PurePosixPath(path).parts)


def test_file_listed_twice_is_refused() -> None:
    assert (
        refusal(manifest_to_text(replace(MANIFEST, files=MANIFEST.files * 2))).problem == '"my.stc" lists a file twice.'
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("graphs", 0, "file"), "cacher_gate.onnx"),
        (("graphs", 0, "weights", 0), "weights/gate.bin"),
        (("tables", 0, "file"), "embed.bin"),
        (("tokenizer",), "tokenizer.json"),
    ],
)
def test_file_that_is_used_and_not_listed_is_refused(path: tuple[Any, ...], name: str) -> None:
    changed = plain()
    assert put(changed, path, "other.bin") == name
    assert refusal(changed).problem == '"my.stc" uses "other.bin" but does not list it.'
    changed = plain()
    changed["files"] = [entry for entry in changed["files"] if entry["path"] != name]
    assert refusal(changed).problem == f'"my.stc" uses "{name}" but does not list it.'


def test_graph_by_another_name_than_that_of_an_onnx_file_is_refused() -> None:
    changed = plain()
    changed["graphs"][0]["file"] = "tokenizer.json"
    assert refusal(changed).problem == '"my.stc" has the graph "tokenizer.json", expected a file that ends in .onnx.'


@given(st.data())
def test_other_value_anywhere_is_noticed(data: st.DataObject) -> None:
    changed = json.loads(TEXT)
    path = data.draw(st.sampled_from(places(plain())))
    old = put(changed, path, data.draw(ANY_VALUE))
    try:
        found = manifest_from_text(json.dumps(changed), "my.stc")
    except BundleError:
        return
    assert found == MANIFEST, f"{path} was {old}"


def test_altered_number_is_named_as_damage_and_manifests_of_older_versions_are_read() -> None:
    changed = json.loads(TEXT)
    changed["policy"]["pruner"]["keep"] = 0.5
    assert refusal(changed).problem == 'The manifest of "my.stc" was altered.'
    del changed["sha256"]
    assert manifest_from_text(json.dumps(changed), "x").policy.pruner.keep == 0.5


def test_layers_without_end_are_refused() -> None:
    changed = plain()
    changed["dims"]["vision"]["layers"] = 1025
    assert refusal(changed).problem.endswith("has dims.vision.layers = 1025, which is not possible.")


@pytest.mark.parametrize("value", [0, -1, 2**40])
@pytest.mark.parametrize("name", ["vision.heads", "vision.patch_size", "vision.layers", "text.kv_heads", "text.vocab"])
def test_impossible_size_is_refused(name: str, value: int) -> None:
    changed = plain()
    put(changed, ("dims", *name.split(".")), value)
    assert refusal(changed).problem == f'The manifest of "my.stc" has dims.{name} = {value}, which is not possible.'


@pytest.mark.parametrize("name", ["vision.heads", "text.kv_heads", "vision.patch_size"])
def test_sizes_that_do_not_divide_are_refused(name: str) -> None:
    changed = plain()
    put(changed, ("dims", *name.split(".")), 71)
    assert refusal(changed).problem == 'The manifest of "my.stc" has sizes that do not divide.'


@pytest.mark.parametrize("piece", [{}, {"text": "a", "token": 1}, {"text": "a", "question": True}])
def test_prompt_piece_that_is_nothing_or_two_things_is_refused(piece: dict[str, Any]) -> None:
    changed = plain()
    changed["prompt"]["before_video"] = [piece]
    assert refusal(changed).problem.endswith("has a piece of the prompt that is not text, token or question.")


@pytest.mark.parametrize(
    ("part", "count"), [("after_video", 0), ("after_video", 2), ("before_video", 1), ("next_turn", 1)]
)
def test_prompt_needs_the_question_once_after_the_video(part: str, count: int) -> None:
    changed = plain()
    changed["prompt"][part] = [{"question": True}] * count
    assert refusal(changed).problem.endswith("without exactly one place for the question after the video.")


def test_policy_out_of_range_inside_a_manifest_is_a_bundle_error() -> None:
    changed = plain()
    changed["policy"]["gate"]["tau"] = 2
    assert refusal(changed).problem == (
        'The manifest of "my.stc" cannot be used: gate.tau is 2, expected a number above 0 and at most 1. '
        "Set gate.tau inside that range."
    )


def test_lookup_of_what_the_bundle_lacks_names_what_it_has() -> None:
    with pytest.raises(BundleError, match=r'^The bundle has no vit graph "shared"; it has: gate\.'):
        MANIFEST.graph("vit", "shared")
    with pytest.raises(BundleError, match=r'^The bundle has no llm graph "default"; it has: none\.'):
        MANIFEST.graph("llm")
    with pytest.raises(BundleError, match=r'^The bundle has no table "newline"\.'):
        MANIFEST.table("newline")
    with pytest.raises(BundleError, match=r'^The bundle has no pruning method "x"; it has: none\.'):
        MANIFEST.pruner("x")
    assert MANIFEST.graph("vit", "gate").file == "vit.onnx"
    assert MANIFEST.table("embed").shape == (2, 8)
    assert MANIFEST.pruner("none").history == "none"
