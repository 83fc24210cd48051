"""Reading checkpoint directories: what is there, and everything that can be wrong with them."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stc_export.exporter.checkpoint import Checkpoint, read_checkpoint, read_config, read_json_object
from stc_export.families.llava_onevision.weights import canonical
from stc_export.spec.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
REPAIR = "Save the checkpoint again."


def write(directory: Path, tensors: dict[str, torch.Tensor], name: str = WEIGHTS) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}", encoding="utf-8")
    save_file(tensors, directory / name)
    return directory


def raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    """Write a safetensors file by hand: length of the header, header, data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def read(directory: Path) -> Checkpoint:
    return read_checkpoint(directory, canonical)


def refusal(directory: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read(directory)
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "model", {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)})


def test_headers_and_values_are_those_that_were_written(folder: Path) -> None:
    found = read(folder)
    assert {name: (info.key, info.shape, info.dtype, info.elements) for name, info in found.tensors.items()} == {
        "a": ("a", (2, 3), "F32", 6),
        "b": ("b", (4,), "BF16", 4),
    }
    assert found.read("a").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.read("b").dtype == torch.bfloat16


@pytest.mark.parametrize(("block_bytes", "rows"), [(1, 1), (12, 1), (24, 2), (35, 2), (36, 3), (10**9, 7)])
def test_blocks_are_whole_rows_of_at_most_the_given_bytes_and_give_the_tensor(
    tmp_path: Path, block_bytes: int, rows: int
) -> None:
    whole = torch.arange(21.0).reshape(7, 3)
    blocks = list(read(write(tmp_path / "model", {"a": whole})).read_blocks("a", block_bytes))
    assert [len(block) for block in blocks][:-1] == [rows] * (len(blocks) - 1)
    assert torch.equal(torch.cat(blocks), whole)


def test_layouts_give_the_same_canonical_tensors(
    tiny_checkpoint: Path, sharded_checkpoint: Path, old_layout_checkpoint: Path, new_layout_checkpoint: Path
) -> None:
    first = read(tiny_checkpoint)
    keys = {frozenset(info.key for info in first.tensors.values())}
    for directory in (sharded_checkpoint, old_layout_checkpoint, new_layout_checkpoint):
        other = read(directory)
        assert set(other.tensors) == set(first.tensors)
        assert all(torch.equal(other.read(name), first.read(name)) for name in first.tensors)
        keys.add(frozenset(info.key for info in other.tensors.values()))
    assert len(keys) == 3  # the sharded one has the names of the first
    assert len({info.file for info in read(sharded_checkpoint).tensors.values()}) > 1


def test_missing_directory_and_config_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path / "nowhere")
    assert caught.value.problem == f'"{tmp_path / "nowhere"}" is not a directory with a checkpoint.'
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert caught.value.problem == f'"{tmp_path / "config.json"}" is missing.'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as JSON (Expecting value"),
        (b"{", "cannot be read as JSON (Expecting property name"),
        (b"\xff", "cannot be read as JSON ('utf-8' codec can't decode"),
        (b"[" * 100_000, "cannot be read as JSON ("),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON (Exceeds the limit"),
        (b"[]", "is not a JSON object."),
        (b"null", "is not a JSON object."),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_config_that_is_not_a_json_object_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json_object(file)
    assert caught.value.problem.startswith(f'"{file}" {reason}')
    assert len(caught.value.problem) < 400
    assert caught.value.fix == REPAIR


def test_config_of_unlikely_size_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with file.open("wb") as sparse:
        sparse.truncate(64 * 1024 * 1024 + 1)
    with pytest.raises(CheckpointError, match="larger than any of its kind"):
        read_json_object(file)


def test_config_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_config(tmp_path)


def test_no_weights_says_what_was_looked_for(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    error = refusal(folder)
    assert error.problem == f'"{folder}" has no model.safetensors and no model.safetensors.index.json.'
    assert error.fix == "Save it with save_pretrained(..., safe_serialization=True)."


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_named_and_never_opened(folder: Path, name: str) -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert refusal(folder).problem.endswith(f" It has {name}, which is a pickle and is never loaded.")


@pytest.mark.parametrize("kept", [0, 4, 8, 60, 0.5, -1])
def test_truncated_weights_are_refused(folder: Path, kept: float) -> None:
    file = folder / WEIGHTS
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    error = refusal(folder)
    assert error.problem.startswith(f'"{file}" is not a readable safetensors file (')
    assert error.fix == "It may be truncated: copy or fetch it again."


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": entry("F32", [3], 0, 8)}, b"x" * 8, None),
        ({"a": entry("F32", [2], 0, 2**40)}, b"x" * 8, None),
        ({"a": entry("F32", [2], 8, 16)}, b"x" * 16, None),
        ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, b"x" * 12, None),
        ({"a": entry("F32", [2**40, 2**40], 0, 8)}, b"x" * 8, None),
        ({"a": entry("F32", [-2], 0, 8)}, b"x" * 8, None),
        ({"a": entry("F99", [2], 0, 8)}, b"x" * 8, None),
        ({"a": {"dtype": "F32"}}, b"", None),
        ({"a": 1}, b"", None),
        (b"not json", b"", None),
        (b"\xff\xfe", b"", None),
        ({}, b"", 2**62),
        ({}, b"", 10**9),
    ],
)
def test_lying_header_is_refused(folder: Path, header: Any, data: bytes, length: int | None) -> None:
    raw(folder / WEIGHTS, header, data, length)
    assert refusal(folder).problem.startswith(f'"{folder / WEIGHTS}" is not a readable safetensors file (')


@settings(max_examples=60)
@given(st.binary(max_size=64))
def test_any_bytes_in_place_of_weights_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.getbasetemp() / "any-bytes"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}", encoding="utf-8")
    (directory / WEIGHTS).write_bytes(data)
    refusal(directory)


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.zeros(2, dtype=torch.int64), "I64"),
        (torch.zeros(2, dtype=torch.uint8), "U8"),
        (torch.zeros(2, dtype=torch.float64), "F64"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "F8_E4M3"),
    ],
)
def test_dtype_that_cannot_be_exported_is_named(tmp_path: Path, tensor: torch.Tensor, name: str) -> None:
    error = refusal(write(tmp_path / "model", {"layer.weight": tensor}))
    assert error.problem == f'"layer.weight" in "{WEIGHTS}" has dtype {name}; F32, F16, BF16 can be exported.'
    assert error.fix == "Save the checkpoint without quantisation."


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    old, new = "language_model.model.norm.weight", "model.language_model.norm.weight"
    directory = write(tmp_path / "model", {old: torch.ones(2), new: torch.zeros(2)})
    assert refusal(directory).problem == f'"{directory}" holds "{new}" and "{old}", which are the same tensor.'


def test_missing_tensor_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(folder).info("c")
    assert caught.value.problem == f'The weights in "{folder}" lack "c", which their config calls for.'


# --- several files ---------------------------------------------------------------------------------------------------


def shard_index(directory: Path, weight_map: Any) -> None:
    (directory / WEIGHTS).unlink(missing_ok=True)
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")


def test_missing_shard_is_named(sharded_checkpoint: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(sharded_checkpoint, tmp_path / "model")
    shard = sorted(directory.glob("model-*.safetensors"))[1]
    shard.unlink()
    error = refusal(directory)
    assert (error.problem, error.fix) == (f'The shard "{shard}" is missing.', "Fetch or copy all shards.")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", ".", "x" * 256])
def test_shard_name_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent / WEIGHTS)
    shard_index(folder, {"a": name})
    assert refusal(folder).problem == f'The index names the shard "{name[:80]}", which is not a plain file name.'


@pytest.mark.parametrize("name", ["..", "", "a\0b", "x" * 255])
def test_shard_name_of_no_file_is_refused(folder: Path, name: str) -> None:
    shard_index(folder, {"a": name})
    assert refusal(folder).problem.startswith('The shard "')


@pytest.mark.parametrize("weight_map", [None, [], "x", {"a": 1}, {"a": ["model.safetensors"]}])
def test_index_without_a_map_of_names_is_refused(folder: Path, weight_map: Any) -> None:
    shard_index(folder, weight_map)
    assert refusal(folder).problem == f'"{folder / INDEX}" has no "weight_map" of file names.'


def test_one_file_is_preferred_to_an_index(folder: Path) -> None:
    (folder / INDEX).write_text("not json", encoding="utf-8")
    assert set(read(folder).tensors) == {"a", "b"}


def test_tensor_in_two_shards_is_refused(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / "2.safetensors")
    (folder / WEIGHTS).rename(folder / "1.safetensors")
    shard_index(folder, {"a": "1.safetensors", "b": "2.safetensors"})
    assert refusal(folder).problem.endswith('holds "a" and "a", which are the same tensor.')


def test_read_config_of_a_real_checkpoint_gives_its_values(tiny_checkpoint: Path) -> None:
    assert read_config(tiny_checkpoint)["text_config"]["vocab_size"] == 512
    assert np.prod(read(tiny_checkpoint).info("language_model.embed_tokens.weight").shape) == 512 * 48
