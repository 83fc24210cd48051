"""What engines are bound to, and what is said when there are none for this device."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec import codec
from stc_export.spec.engines import (
    FOLDER,
    RECORD_NAME,
    SCHEMA,
    EngineEntry,
    Fingerprint,
    GraphPrint,
    SealRecord,
    find_engines,
    find_whole,
    read_record,
)
from stc_export.spec.errors import BundleError

NANO = Fingerprint(
    product="trt",
    version="10.3.0",
    device="Orin",
    sm="8.7",
    l4t="36.4.3",
    graphs=(GraphPrint("graphs/vit.onnx", "a" * 64, "b" * 64), GraphPrint("graphs/llm.onnx", "c" * 64, "d" * 64)),
)
CHANGES: dict[str, Any] = {
    "product": "trt-rtx",
    "version": "10.16.1",
    "device": "Thor",
    "sm": "11.0",
    "l4t": None,
    "graphs": NANO.graphs[:1],
}


def write(bundle: Path, fingerprint: Fingerprint, **changes: Any) -> Path:
    folder = bundle / FOLDER / fingerprint.key
    folder.mkdir(parents=True)
    (folder / "vit.plan").write_bytes(b"plan")
    entry = EngineEntry("graphs/vit.onnx", "vit.plan", ("full",), 4, "0" * 64, 1.5)
    record = replace(SealRecord(SCHEMA, "test", fingerprint, (entry,), (), (), "no reason"), **changes)
    (folder / RECORD_NAME).write_text(codec.to_json(record))
    return folder


def test_key_is_a_plain_name_that_stays_and_changes_with_every_field() -> None:
    keys = {replace(NANO, **{name: value}).key for name, value in CHANGES.items()} | {NANO.key}
    assert len(keys) == 1 + len(CHANGES)
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys)
    assert replace(NANO).key == NANO.key


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("product", "product is trt-rtx, here trt"),
        ("version", "version is 10.16.1, here 10.3.0"),
        ("device", "device is Thor, here Orin"),
        ("sm", "sm is 11.0, here 8.7"),
        ("l4t", "l4t is None, here 36.4.3"),
        ("graphs", "graphs/llm.onnx is there in one of them only"),
    ],
)
def test_each_field_that_differs_is_named(name: str, said: str) -> None:
    assert NANO.differences(replace(NANO, **{name: CHANGES[name]})) == (said,)


def test_graph_and_shapes_that_differ_are_told_apart() -> None:
    vit, llm = NANO.graphs
    other = replace(NANO, graphs=(replace(vit, content="x"), replace(llm, profiles="y")))
    assert NANO.differences(other) == (
        "graphs/llm.onnx was built for other shapes",
        "graphs/vit.onnx is another graph, or has other weights",
    )
    assert NANO.differences(NANO) == ()


@given(st.permutations(sorted(CHANGES)), st.integers(0, len(CHANGES)))
def test_as_many_differences_as_fields_were_changed(names: list[str], count: int) -> None:
    other = replace(NANO, **{name: CHANGES[name] for name in names[:count]})
    assert len(NANO.differences(other)) == count
    assert (NANO.key == other.key) == (count == 0)


def test_engines_of_exactly_this_are_found(tmp_path: Path) -> None:
    write(tmp_path, replace(NANO, version="10.16.1"))
    folder = write(tmp_path, NANO)
    assert find_engines(tmp_path, NANO) == folder
    assert read_record(folder).fingerprint == NANO


def test_no_engines_say_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no engines that are whole") as caught:
        find_engines(tmp_path, NANO)
    assert f"stc-export seal {tmp_path}" in caught.value.fix


def test_other_engines_say_what_differs_in_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, replace(NANO, **CHANGES))
    write(tmp_path, replace(NANO, version="10.16.1"))
    with pytest.raises(BundleError, match=r"those it has differ \(version is 10\.16\.1, here 10\.3\.0\)"):
        find_engines(tmp_path, NANO)


def test_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    write(tmp_path, replace(NANO, **CHANGES))
    with pytest.raises(BundleError, match=r"here Orin; and 3 more\)"):
        find_engines(tmp_path, NANO)


def test_damaged_engines_are_not_found(tmp_path: Path) -> None:
    folder = write(tmp_path, NANO)
    assert find_whole(folder) == read_record(folder)
    (folder / "vit.plan").write_bytes(b"pla")
    assert find_whole(folder) is None
    with pytest.raises(BundleError, match="holds no engines that are whole"):
        find_engines(tmp_path, NANO)
    (folder / "vit.plan").unlink()
    assert find_whole(folder) is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.update(schema="stc.engines/2"),
        lambda d: d.update(schema=7),
        lambda d: d.pop("fingerprint"),
        lambda d: d["engines"][0].update(file="../../graphs/vit.onnx"),
        lambda d: d["engines"][0].update(file="/etc/passwd"),
        lambda d: d["engines"][0].update(size_bytes="4"),
        lambda d: d.update(code="print()"),
    ],
)
def test_record_that_is_none_is_refused(tmp_path: Path, edit: Any) -> None:
    folder = write(tmp_path, NANO)
    data = json.loads((folder / RECORD_NAME).read_text())
    edit(data)
    (folder / RECORD_NAME).write_text(json.dumps(data))
    with pytest.raises(BundleError):
        read_record(folder)
    assert find_whole(folder) is None


def test_record_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, NANO)
    (folder / RECORD_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="cannot be used"):
        read_record(folder)
    with (folder / RECORD_NAME).open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(BundleError, match="larger than any"):
        read_record(folder)
