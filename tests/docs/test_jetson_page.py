"""The messages on the page for Jetson are those of the program: each failure is brought about."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stc_engines import opening
from stc_engines.detect import Gpu
from stc_engines.fingerprint import fingerprint_of
from stc_engines.runnable import Host, check_runnable
from stc_engines.seal import _refuse
from stc_engines.table import find_target
from stc_engines.trt.builder import Recipe, _failure
from stc_engines.trt.isolate import build_isolated
from stc_engines.trt.product import load_product
from stc_engines.trt.worker import Job
from stc_export.cli.check import result_text
from stc_export.pipeline import check_target
from stc_export.spec import codec
from stc_export.spec.engines import FOLDER, RECORD_NAME, SCHEMA, SealRecord, find_engines
from stc_export.spec.errors import StcError
from stc_export.spec.manifest import GraphParity, OutputParity, read_manifest
from stc_export.spec.progress import Silent
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "jetson.md"
MESSAGES = [block.strip() for block in blocks(PAGE, "text") if block.startswith("error")]
NANO = "jetson-orin-nano-8gb"


def said(action: Callable[[], object]) -> str:
    with pytest.raises(StcError) as caught:
        action()
    return f"error: {caught.value.problem}\nfix: {caught.value.fix}"


def test_page_has_ten_failures() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) == 10


def test_not_installed() -> None:
    assert said(lambda: check_runnable(find_target(NANO), Host(None, (), "12.6"))) == MESSAGES[0]


def test_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> Any:
        raise ImportError("libnvdla_compiler.so: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert said(lambda: load_product("trt")) == MESSAGES[1]


def test_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.2.3"))
    assert said(lambda: load_product("trt")) == MESSAGES[2]
    for version in ("10.3.0", "10.16.2.10", "11.4.0.106"):
        monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
        assert load_product("trt").__version__ == version


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "read_gpu", lambda: None)
    assert said(lambda: opening.gpu_of(find_target(NANO))) == MESSAGES[3]


def test_no_room(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = SimpleNamespace(fits=False, room_bytes=6_442_450_944, session_bytes=17_000_000_000)
    monkeypatch.setattr(check_target, "fit_bundle", lambda _path, _target: fit)
    assert MESSAGES[4] in result_text(check_target.check_target(tiny_bundle, NANO, Silent()))


def test_killed(tmp_path: Path) -> None:
    job = Job("trt", Recipe("graphs/llm.onnx", ()), str(tmp_path / "llm.plan"))
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    found = said(lambda: build_isolated(job, lambda *_: None, lambda _: None, (sys.executable, "-c", script)))
    assert re.sub(r"\d+ MiB", "512 MiB", found) == MESSAGES[5]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (6, "Error Code 10: Could not find any implementation for node {ForeignNode[...]}."),
        (7, "Target GPU SM 87 is not supported by this TensorRT release."),
    ],
)
def test_refused(place: int, reason: str) -> None:
    error = _failure(Recipe("graphs/llm.onnx", ()), [reason])
    assert f"error: {error.problem}\nfix: {error.fix}" == MESSAGES[place]


def test_engines_of_another_release(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = fingerprint_of(read_manifest(tiny_bundle), "trt", "10.16.2", Gpu("Orin", "8.7"), "39.2.0")
    there = replace(here, version="10.3.0", l4t="36.4.3")
    folder = tmp_path / "llava.stc" / FOLDER / there.key
    folder.mkdir(parents=True)
    (folder / RECORD_NAME).write_text(codec.to_json(SealRecord(SCHEMA, "test", there, (), (), (), None)))
    monkeypatch.chdir(tmp_path)
    assert said(lambda: find_engines(Path("llava.stc"), here)) == MESSAGES[8]


def test_wrong_numbers() -> None:
    row = OutputParity("logits", 1.0, 0.53, 0.9, 2e-2, passed=False)
    assert (
        said(lambda: _refuse([GraphParity("graphs/llm.onnx", "decode", "goldens", "as built", (row,))])) == MESSAGES[9]
    )
