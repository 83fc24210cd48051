"""A machine is recognised as the target that says most about it, and as no other."""

from __future__ import annotations

import pytest

from stc_engines.detect import Device, Gpu
from stc_engines.recognise import Machine, check_is_here, detect_target, read_machine
from stc_engines.runnable import Host, needs_gpu
from stc_engines.table import find_target, load_targets
from stc_export.spec.errors import DeviceError, MissingDependencyError

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", *CPU)
NANO = Device("jetson", "NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6.2", int(7.4 * 2**30))
ORIN, H200, OTHER = Gpu("Orin", "8.7"), Gpu("NVIDIA H200", "9.0"), Gpu("NVIDIA GeForce RTX 5090", "12.0")


def machine(
    gpu: Gpu | None = None, device: Device | None = None, providers: tuple[str, ...] = CPU, **host: object
) -> Machine:
    compilers = frozenset(host.get("compilers", ()))  # type: ignore[call-overload]
    return Machine(device or Device(), gpu, Host("1.31.1", providers, "13.2" if gpu else None, compilers))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (machine(), "cpu"),
        (machine(compilers=["trt-rtx"]), "cpu"),
        (machine(OTHER, providers=CUDA), "cuda"),
        (machine(OTHER, compilers=["trt-rtx"]), "rtx"),
        (machine(H200), "cpu"),
        (machine(H200, providers=CUDA), "cuda"),
        (machine(H200, providers=CUDA, compilers=["trt"]), "h200"),
        (machine(Gpu("NVIDIA L40S", "8.9"), compilers=["trt"]), "l40s"),
        (machine(Gpu("NVIDIA L4", "8.9"), compilers=["trt"]), "l4"),
        (machine(ORIN, NANO, compilers=["trt"]), "jetson-orin-nano-8gb"),
        (machine(ORIN, NANO), "cpu"),
        (Machine(Device(), None, Host(None, (), None)), None),
    ],
)
def test_machine_is_the_target_that_says_most_about_it(found: Machine, expected: str | None) -> None:
    target = detect_target(found)
    assert (target and target.name) == expected
    if target:
        check_is_here(target, found)


def test_no_machine_is_a_device_that_it_is_not() -> None:
    everything = machine(H200, providers=CUDA, compilers=["trt", "trt-rtx"])
    for target in load_targets():
        if (target.device_models or target.gpu_names) and target.name != "h200":
            with pytest.raises(DeviceError, match=rf'This machine \(NVIDIA H200\) is not "{target.name}"') as caught:
                check_is_here(target, everything)
            assert caught.value.fix == 'Run it on that device; this one is "h200".'
            assert caught.value.exit_code == 3
        else:
            check_is_here(target, everything)


def test_machine_without_anything_says_what_it_lacks() -> None:
    nothing = Machine(Device(), None, Host(None, (), None))
    with pytest.raises(DeviceError, match=r"no known board, no NVIDIA GPU") as caught:
        check_is_here(find_target("h200"), nothing)
    assert caught.value.fix == "Run it on that device."
    with pytest.raises(MissingDependencyError, match="ONNX Runtime, which is not installed"):
        check_is_here(find_target("cpu"), nothing)


def test_device_without_its_compiler_says_so() -> None:
    with pytest.raises(MissingDependencyError, match="TensorRT, which is not installed"):
        check_is_here(find_target("h200"), machine(H200, providers=CUDA))


def test_only_the_cpu_needs_no_gpu() -> None:
    assert [target.name for target in load_targets() if not needs_gpu(target)] == ["cpu"]


def test_this_machine_can_be_read() -> None:
    found = read_machine()
    assert found.host.ort_version is not None
    assert found.device.memory_bytes
