from __future__ import annotations

import importlib.util
import sys

import pytest

from stc_engines import Host, check_runnable, find_target, load_targets, read_host
from stc_engines.runnable import _CHECKS
from stc_engines.trt.product import ProductName
from stc_export.spec.errors import DeviceError, MissingDependencyError

CPU = ("CPUExecutionProvider",)
GPU = ("CUDAExecutionProvider", *CPU)


def test_check_runnable_cpu_with_onnxruntime_passes() -> None:
    check_runnable(find_target("cpu"), Host("1.31.1", CPU, None))


def test_check_runnable_cuda_with_provider_and_driver_passes() -> None:
    check_runnable(find_target("cuda"), Host("1.31.1", GPU, "13.2"))


def test_check_runnable_cpu_without_onnxruntime_names_the_extra() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_runnable(find_target("cpu"), Host(None, (), None))
    assert caught.value.fix == 'Run pip install "stc-export[ort]".'
    assert caught.value.exit_code == 3


def test_check_runnable_cuda_with_the_cpu_build_says_how_to_replace_it() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_runnable(find_target("cuda"), Host("1.31.1", CPU, "13.2"))
    assert "CUDAExecutionProvider" in caught.value.problem
    assert caught.value.fix == 'Run pip uninstall --yes onnxruntime, then pip install "stc-export[cuda]".'


def test_check_runnable_cuda_without_driver_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="NVIDIA GPU"):
        check_runnable(find_target("cuda"), Host("1.31.1", GPU, None))


TRT: frozenset[ProductName] = frozenset({"trt"})


def test_check_runnable_tensorrt_with_driver_passes() -> None:
    check_runnable(find_target("jetson-orin-nano-8gb"), Host(None, (), "13.2", TRT))


@pytest.mark.parametrize(
    ("target", "title", "fix"),
    [("jetson-orin-nano-8gb", "TensorRT", "--system-site-packages"), ("rtx", "TensorRT-RTX", "stc-export[rtx]")],
)
def test_check_runnable_tensorrt_missing_says_how_to_get_it(target: str, title: str, fix: str) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        check_runnable(find_target(target), Host("1.31.1", GPU, "13.2"))
    assert caught.value.problem == f'Target "{target}" runs on {title}, which is not installed.'
    assert fix in caught.value.fix


def test_check_runnable_tensorrt_without_driver_says_to_copy_the_bundle() -> None:
    with pytest.raises(DeviceError, match="needs an NVIDIA GPU") as caught:
        check_runnable(find_target("jetson-orin-nano-8gb"), Host(None, (), None, TRT))
    assert caught.value.fix.startswith("Copy the bundle to the device")
    assert caught.value.exit_code == 3


def test_every_backend_of_a_target_has_its_check() -> None:
    assert {target.backend.kind for target in load_targets()} <= set(_CHECKS)


def test_read_host_without_onnxruntime_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    host = read_host()
    assert (host.ort_version, host.ort_providers) == (None, ())


def test_read_host_here_has_the_cpu_provider() -> None:
    assert importlib.util.find_spec("onnxruntime") is not None
    assert "CPUExecutionProvider" in read_host().ort_providers


def test_read_host_finds_the_compilers_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stc_engines.runnable.find_spec", lambda module: module == "tensorrt" or None)
    assert read_host().compilers == TRT
