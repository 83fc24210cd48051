"""What the user calls a model: demo, directory, hub id, or a mistake."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from stc_export.pipeline.source import Source, find_source
from stc_export.spec.errors import CheckpointError


def refusal(model: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        find_source(model)
    return caught.value


def test_demo_comes_with_the_package() -> None:
    source = find_source("demo")
    assert source.name == "demo"
    assert (source.directory / "config.json").is_file()
    assert (source.directory / "model.safetensors").is_file()


def test_directory_is_taken_as_it_is_under_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "my-model"
    directory.mkdir()
    assert find_source(str(directory)) == Source(directory, "my-model")
    monkeypatch.chdir(directory)
    assert find_source(".").name == "my-model"


def test_directory_called_demo_comes_before_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(find_source("demo").directory.iterdir()) == []


@pytest.mark.parametrize("model", ["nowhere", "a/b/c", "/no/where", "../x", "org/", " ", "org/na me", "x" * 200])
def test_name_of_nothing_is_refused_without_asking_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    error = refusal(model)
    expected = "expected a checkpoint directory, a hub id such as org/name, or demo."
    assert error.problem == f'"{model}" is missing; {expected}'
    assert error.fix == "Give the folder that save_pretrained wrote."


def test_file_is_called_a_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert refusal(str(file)).problem.startswith(f'"{file}" is a file; expected a checkpoint directory')


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert '/pipe" is a file; ' in refusal(str(tmp_path / "pipe")).problem


def test_hub_id_is_fetched_without_code_and_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_source("some-org/some.model-7b_v2") == Source(tmp_path, "some-org/some.model-7b_v2")
    ((name, patterns),) = asked
    assert name == "some-org/some.model-7b_v2"
    assert "*.safetensors" in patterns
    assert "*.json" in patterns
    code = ("modeling.py", "pytorch_model.bin", "training_args.pt", "model.pkl", "model.msgpack")
    assert not [file for file in code for pattern in patterns if Path(file).match(pattern)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route to host\nsecond line"), "no route to host"),
        (OSError(), "OSError"),
        (ValueError("  \n"), "ValueError"),
    ],
)
def test_hub_that_does_not_deliver_is_a_checkpoint_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def snapshot_download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    found = refusal("org/name")
    assert found.problem == f'"org/name" is not a directory here, and the hub did not deliver it ({reason}).'
    assert found.fix == "Check the name and the network, or give a local checkpoint directory."
