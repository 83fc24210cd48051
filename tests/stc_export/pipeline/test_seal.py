"""Sealing a bundle as the command does it: which compiler, which device, and when there is nothing to do."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import stc_engines.seal as sealing
from stc_engines import opening
from stc_engines.detect import Device, Gpu
from stc_engines.table import find_target
from stc_engines.trt.worker import Job
from stc_export.pipeline import seal as module
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.types import BuildRequest, BuildResult, SealRequest
from stc_export.spec.engines import plan_name
from stc_export.spec.errors import DeviceError, MissingDependencyError, UnsupportedError, UsageError
from stc_export.spec.manifest import GraphEntry, manifest_to_text, read_manifest
from stc_export.spec.progress import Silent
from stc_runtime.backends.base import Engine
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.store import HostMemory
from stc_runtime.bundle import Bundle

ORIN = Gpu("Orin", "8.7")


class PlanBackend(HostMemory):
    """Runs the plans of the compiler below, in ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        assert (self._folder / plan_name(graph)).read_text() == str(root / graph.file)
        return OrtBackend().open(root, graph)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.stc"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """A machine with a compiler that writes the name of the graph, and without a GPU."""
    jobs: list[Job] = []

    def build(job: Job, _notify: Any, _note: Any) -> None:
        Path(job.plan).write_text(job.recipe.graph)
        jobs.append(job)

    monkeypatch.setattr(sealing, "build_isolated", build)
    for place in (module, opening):
        monkeypatch.setattr(place, "load_product", lambda _name: SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setattr(opening, "read_device", lambda: Device(group="jetson", l4t="36.4.3"))
    set_gpu(monkeypatch, None)
    return jobs


def set_gpu(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None) -> None:
    for place in (module, opening):
        monkeypatch.setattr(place, "read_gpu", lambda: gpu)


def test_target_that_needs_no_engines_says_so(bundle: Path, compiled: list[Job]) -> None:
    with pytest.raises(UsageError, match='Target "cpu" runs the graphs of a bundle as they are'):
        module.seal_bundle(SealRequest(bundle), Silent())


def test_unknown_target_is_refused(bundle: Path, compiled: list[Job]) -> None:
    with pytest.raises(UnsupportedError):
        module.seal_bundle(SealRequest(bundle, "rtxx"), Silent())


def test_engines_of_a_board_need_the_board(bundle: Path, compiled: list[Job]) -> None:
    with pytest.raises(DeviceError, match="built on the device itself") as caught:
        module.seal_bundle(SealRequest(bundle, "jetson-orin-nano-8gb"), Silent())
    assert caught.value.exit_code == 3
    assert not (bundle / "engines").exists()


def test_on_a_board_engines_are_bound_to_it(bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpu(monkeypatch, ORIN)
    monkeypatch.setattr(module, "open_folder", lambda _product, folder: PlanBackend(folder))
    result = module.seal_bundle(SealRequest(bundle, "jetson-orin-nano-8gb"), Silent())
    found = result.record.fingerprint
    assert (found.product, found.version, found.device, found.sm, found.l4t) == (
        "trt",
        "10.3.0",
        "Orin",
        "8.7",
        "36.4.3",
    )
    assert {job.product for job in compiled} == {"trt"}
    assert result.record.not_checked is None
    assert result.record.parity
    assert all(row.passed for row in result.record.parity)


def test_engines_for_any_gpu_are_bound_to_none(bundle: Path, compiled: list[Job]) -> None:
    result = module.seal_bundle(SealRequest(bundle, "rtx"), Silent())
    found = result.record.fingerprint
    assert (found.product, found.device, found.sm, found.l4t) == ("trt-rtx", None, None, None)
    assert result.folder == bundle / "engines" / found.key
    assert result.record.not_checked == "This machine shows no NVIDIA GPU to run them on."


def test_second_time_there_is_nothing_to_do_unless_asked(bundle: Path, compiled: list[Job]) -> None:
    first = module.seal_bundle(SealRequest(bundle, "rtx"), Silent())
    again = module.seal_bundle(SealRequest(bundle, "rtx"), Silent())
    assert (first.built, again.built, again.record) == (True, False, first.record)
    count = len(compiled)
    assert module.seal_bundle(SealRequest(bundle, "rtx", overwrite=True), Silent()).built
    assert len(compiled) == 2 * count


def test_damaged_engines_are_built_again(bundle: Path, compiled: list[Job]) -> None:
    folder = module.seal_bundle(SealRequest(bundle, "rtx"), Silent()).folder
    next(folder.glob("*.plan")).write_bytes(b"")
    assert not inspect(bundle).engines[0].whole
    assert module.seal_bundle(SealRequest(bundle, "rtx"), Silent()).built
    assert inspect(bundle).engines[0].whole


def test_engines_do_not_change_the_bundle(bundle: Path, compiled: list[Job]) -> None:
    before = read_manifest(bundle)
    result = module.seal_bundle(SealRequest(bundle, "rtx"), Silent())
    (bundle / "engines" / "note.txt").write_text("mine")
    seen = inspect(bundle)
    assert seen.ok
    assert seen.unlisted == ("engines/note.txt",)
    (row,) = seen.engines
    assert (row.folder, row.count, row.whole) == (f"engines/{result.folder.name}", len(before.graphs), True)
    assert row.size_bytes == sum(entry.size_bytes for entry in result.record.engines)
    assert Bundle.open(bundle).manifest == before


# --- build seals by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "gpu", "expected"),
    [
        ("cpu", ORIN, False),
        ("rtx", None, True),
        ("jetson-orin-nano-8gb", None, False),
        ("jetson-orin-nano-8gb", ORIN, True),
        ("jetson-orin-nano-8gb", Gpu("H200", "9.0"), False),
        ("h200", Gpu("H200", "9.0"), True),
    ],
)
def test_machine_can_seal_what_it_has_the_device_for(
    compiled: list[Job], monkeypatch: pytest.MonkeyPatch, target: str, gpu: Gpu | None, expected: bool
) -> None:
    set_gpu(monkeypatch, gpu)
    assert module.can_seal(find_target(target)) is expected


def test_machine_without_the_compiler_cannot_seal(compiled: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Any:
        raise MissingDependencyError("It is not there.", "Install it.")

    monkeypatch.setattr(module, "load_product", missing)
    assert not module.can_seal(find_target("rtx"))


@pytest.mark.parametrize(("target", "sealed"), [("cpu", False), ("rtx", True)])
def test_build_seals_where_it_can(
    bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch, target: str, sealed: bool
) -> None:
    manifest = replace(read_manifest(bundle), target=target)
    (bundle / "manifest.json").write_text(manifest_to_text(manifest))
    monkeypatch.setattr(
        "stc_export.pipeline.build.run_build", lambda _request, _progress: BuildResult(bundle, manifest, ())
    )
    result = module.build_and_seal(BuildRequest("demo"), Silent())
    assert (result.sealed is not None) is sealed
    assert (bundle / "engines").exists() is sealed


def test_seal_with_a_compiler_that_is_too_old_for_the_flavour_compiles_nothing(
    tiny_modern_bundle: Path, tmp_path: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(tiny_modern_bundle, tmp_path / "modern.stc"))
    monkeypatch.setattr(opening, "read_gpu", lambda: ORIN)
    with pytest.raises(MissingDependencyError, match=r"needs TensorRT 10\.16 or newer; this is 10\.3\.0"):
        module.seal_bundle(SealRequest(bundle, "jetson-orin-nano-8gb"), Silent())
    assert compiled == []
    assert not (bundle / "engines").exists()
