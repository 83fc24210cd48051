"""A bundle is run by what its target says, with the engines that are bound to this device."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stc_engines import opening
from stc_engines.detect import Gpu
from stc_engines.opening import fingerprint_here, open_backend, product_of
from stc_engines.table import find_target, load_targets
from stc_engines.trt.product import check_flavour
from stc_export.spec import codec
from stc_export.spec.engines import FOLDER, RECORD_NAME, SCHEMA, SealRecord
from stc_export.spec.errors import BundleError, MissingDependencyError, UsageError
from stc_export.spec.manifest import manifest_to_text
from stc_runtime import Bundle, Model
from stc_runtime.backends import cuda
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.trt import TrtBackend
from tests.runtime.backends.fake_trt import FakeDevice, FakeTensorRt, write_plans


@pytest.fixture
def jetson(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle for a board, on such a board."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.stc"))
    manifest = replace(Bundle.open(path).manifest, target="jetson-orin-nano-8gb")
    (path / "manifest.json").write_text(manifest_to_text(manifest))
    device = FakeDevice()
    trt: Any = FakeTensorRt(device)
    trt.__version__ = "10.3.0"
    monkeypatch.setattr(opening, "check_runnable", lambda _target: None)
    monkeypatch.setattr(opening, "load_product", lambda _name: trt)
    monkeypatch.setattr(opening, "read_gpu", lambda: Gpu("Orin", "8.7"))
    monkeypatch.setattr(opening, "read_device", lambda: SimpleNamespace(l4t="36.4.3"))
    monkeypatch.setattr(cuda, "CudaDevice", lambda: device)
    return path


def seal(path: Path, **changes: Any) -> Path:
    bundle = Bundle.open(path)
    fingerprint = replace(fingerprint_here(bundle.manifest, find_target(bundle.manifest.target)), **changes)
    folder = write_plans(path, bundle.manifest, path / FOLDER / fingerprint.key)
    record = SealRecord(SCHEMA, "test", fingerprint, (), (), (), None)
    (folder / RECORD_NAME).write_text(codec.to_json(record))
    return folder


def test_bundle_for_the_cpu_runs_in_onnx_runtime(tiny_bundle: Path) -> None:
    assert isinstance(open_backend(tiny_bundle), OrtBackend)
    assert isinstance(open_backend(str(tiny_bundle), threads=1), OrtBackend)


def test_bundle_for_a_board_runs_with_its_engines(jetson: Path) -> None:
    folder = seal(jetson)
    backend = open_backend(jetson)
    assert isinstance(backend, TrtBackend)
    (folder / RECORD_NAME).unlink()  # its digests are those of real plans
    assert Model.open(jetson, backend).engine("cacher_gate") is not None


@pytest.mark.parametrize(("target", "beside"), [("jetson-orin-nano-8gb", False), ("jetson-agx-orin-64gb", True)])
def test_llm_has_a_stream_of_its_own_where_the_target_says_so(jetson: Path, target: str, *, beside: bool) -> None:
    manifest = replace(Bundle.open(jetson).manifest, target=target)
    (jetson / "manifest.json").write_text(manifest_to_text(manifest))
    seal(jetson)
    backend = open_backend(jetson)
    assert (backend.llm is not backend) == beside


def test_engines_of_another_release_are_found_before_they_are_loaded(jetson: Path) -> None:
    seal(jetson, version="10.16.1")
    with pytest.raises(BundleError, match=r"version is 10\.16\.1, here 10\.3\.0"):
        open_backend(jetson)


def test_graphs_that_the_release_does_not_have_are_told_before_anything_is_loaded(
    jetson: Path, tiny_modern_bundle: Path
) -> None:
    manifest = replace(Bundle.open(tiny_modern_bundle).manifest, target="jetson-orin-nano-8gb")
    (jetson / "manifest.json").write_text(manifest_to_text(manifest))
    with pytest.raises(MissingDependencyError) as caught:
        open_backend(jetson)
    assert caught.value.problem == (
        'The graphs of the bundle are of the flavour "modern", which needs TensorRT 10.16 or newer; this is 10.3.0.'
    )
    assert caught.value.fix.startswith("Build the bundle with --flavour base")


@pytest.mark.parametrize(("version", "fits"), [("10.15.1", False), ("10.16.2.10", True), ("11.4.0.106", True)])
def test_flavour_modern_needs_10_16(version: str, fits: bool) -> None:
    check_flavour("trt", "10.3.0", "base")
    check_flavour("trt-rtx", "1.7.1", "modern")
    if fits:
        check_flavour("trt", version, "modern")
    else:
        with pytest.raises(MissingDependencyError, match=version):
            check_flavour("trt", version, "modern")


def test_bundle_that_was_not_sealed_says_so(jetson: Path) -> None:
    with pytest.raises(BundleError, match="holds no engines") as caught:
        open_backend(jetson)
    assert "stc-export seal" in caught.value.fix


def test_every_kind_of_backend_can_be_opened() -> None:
    assert {target.backend.kind for target in load_targets()} == set(opening._OPENERS)


def test_product_is_that_of_the_target() -> None:
    assert product_of(find_target("h200")) == "trt"
    assert product_of(find_target("rtx")) == "trt-rtx"
    with pytest.raises(UsageError):
        product_of(find_target("cuda"))
