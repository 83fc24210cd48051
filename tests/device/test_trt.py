"""Engines that a device seals give what ONNX Runtime gives on the CPU.

Without a device the same tests run on a stand-in for TensorRT, through all of our own code: sealing, fingerprints,
opening, the backend.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import stc_engines.seal as sealing
from stc_engines import open_backend, opening
from stc_engines.detect import Device, Gpu
from stc_engines.table import Target, find_target
from stc_export.pipeline import seal as pipeline
from stc_export.pipeline.types import SealRequest
from stc_export.spec import codec
from stc_export.spec.engines import RECORD_NAME
from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.progress import Silent
from stc_runtime.backends import cuda
from tests.device.checks import answers, bundle_for, failures, golden_rows
from tests.device.machine import read_machine, sealed_target
from tests.runtime.backends.fake_trt import FakeDevice, FakeTensorRt, any_shape

if TYPE_CHECKING:
    from stc_engines.trt.worker import Job
    from stc_export.world.splits import Quiz

SILENT = Silent()


def this_device(_patch: pytest.MonkeyPatch) -> Target:
    """The target of this machine, as it is."""
    return sealed_target(read_machine())


def stand_in(patch: pytest.MonkeyPatch) -> Target:
    """An Orin whose TensorRT is the stand-in."""
    device = FakeDevice()
    trt: Any = FakeTensorRt(device, any_shape)
    trt.__version__ = "10.3.0"

    def build(job: Job, *_: object) -> None:
        graph = Path(job.recipe.graph)
        plan = {"root": str(graph.parents[1]), "graph": graph.relative_to(graph.parents[1]).as_posix()}
        Path(job.plan).write_text(json.dumps(plan))

    patch.setattr(sealing, "build_isolated", build)
    patch.setattr(sealing, "_TIMED", 1)
    patch.setattr(cuda, "CudaDevice", lambda: device)
    patch.setattr(opening, "check_runnable", lambda _target: None)
    patch.setattr(opening, "read_device", lambda: Device(group="jetson", l4t="36.4.3"))
    for place in (pipeline, opening):
        patch.setattr(place, "load_product", lambda _name: trt)
        patch.setattr(place, "read_gpu", lambda: Gpu("Orin", "8.7"))
    return find_target("jetson-orin-nano-8gb")


TARGETS: Mapping[str, Callable[[pytest.MonkeyPatch], Target]] = {"device": this_device, "stand-in": stand_in}


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.trt)])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Target that bundles are sealed for."""
    return TARGETS[request.param](monkeypatch)


@pytest.mark.parametrize("name", ["tiny_bundle_fp16", "demo_bundle"])
def test_every_engine_gives_the_goldens(
    name: str, target: Target, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = bundle_for(request.getfixturevalue(name), target.name, tmp_path / "here.stc")
    result = pipeline.seal_bundle(SealRequest(bundle), SILENT)
    assert result.built
    assert result.record.not_checked is None
    assert failures(bundle, list(result.record.parity)) == []
    assert [entry.graph for entry in result.record.engines] == [graph.file for graph in read_manifest(bundle).graphs]
    assert failures(bundle, golden_rows(bundle, open_backend(bundle))) == []


def test_stream_with_questions_gives_the_tokens_of_onnx_runtime(
    target: Target, demo_bundle: Path, tmp_path: Path, quizzes: tuple[Quiz, ...]
) -> None:
    bundle = bundle_for(demo_bundle, target.name, tmp_path / "here.stc")
    pipeline.seal_bundle(SealRequest(bundle), SILENT)
    expected = answers(demo_bundle, open_backend(demo_bundle), quizzes[0])
    assert answers(bundle, open_backend(bundle), quizzes[0]) == expected


def test_engines_of_another_fingerprint_are_refused(target: Target, tiny_bundle_fp16: Path, tmp_path: Path) -> None:
    """As after an update of the compiler; sealing again helps."""
    bundle = bundle_for(tiny_bundle_fp16, target.name, tmp_path / "here.stc")
    with pytest.raises(BundleError, match="holds no engines that are whole"):
        open_backend(bundle)
    sealed = pipeline.seal_bundle(SealRequest(bundle), SILENT)
    other = replace(sealed.record.fingerprint, version="0.0.0")
    record = replace(sealed.record, fingerprint=other)
    moved = sealed.folder.rename(sealed.folder.with_name(other.key))
    (moved / RECORD_NAME).write_text(codec.to_json(record), encoding="utf-8")
    with pytest.raises(BundleError, match=r"differ \(version is 0\.0\.0, here "):
        open_backend(bundle)
    assert pipeline.seal_bundle(SealRequest(bundle), SILENT).built
    open_backend(bundle)
