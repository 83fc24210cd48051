"""Whether this machine can run a target, and what is missing if not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from stc_engines.detect import read_cuda_driver
from stc_engines.trt.product import PRODUCTS, ProductName
from stc_export.spec.errors import DeviceError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stc_engines.table import BackendKind, Target

#: Providers of ONNX Runtime that work only with an NVIDIA driver and device.
_NEEDS_CUDA = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})


@dataclass(frozen=True)
class Host:
    """What this machine has to run graphs with.

    Attributes:
        ort_version: Version of ONNX Runtime; ``None`` if it cannot be imported.
        ort_providers: Execution providers of the installed ONNX Runtime.
        cuda_driver: CUDA version of the driver; ``None`` without driver or device.
        compilers: Which of TensorRT and TensorRT-RTX are installed.
    """

    ort_version: str | None
    ort_providers: tuple[str, ...]
    cuda_driver: str | None
    compilers: frozenset[ProductName] = frozenset()


def read_host() -> Host:
    """Look at the installed packages and the NVIDIA driver."""
    driver = read_cuda_driver()
    compilers = frozenset(name for name, product in PRODUCTS.items() if find_spec(product.module))
    try:
        import onnxruntime
    except ImportError:
        return Host(None, (), driver, compilers)
    return Host(str(onnxruntime.__version__), tuple(onnxruntime.get_available_providers()), driver, compilers)


def needs_gpu(target: Target) -> bool:
    """Whether bundles of a target run on an NVIDIA GPU only."""
    return target.backend.kind in PRODUCTS or bool(_NEEDS_CUDA.intersection(target.backend.providers))


def check_runnable(target: Target, host: Host | None = None) -> None:
    """Check that this machine can run bundles of a target.

    Args:
        target: The target.
        host: What the machine has; ``None``: look.

    Raises:
        MissingDependencyError: A package is missing; the fix is the command that installs it.
        DeviceError: A device, driver or backend is missing.
    """
    _CHECKS[target.backend.kind](target, host or read_host())


def _check_ort(target: Target, host: Host) -> None:
    install = f'pip install "stc-export[{target.backend.extra}]"'
    if host.ort_version is None:
        raise MissingDependencyError(
            f'Target "{target.name}" runs on ONNX Runtime, which is not installed.', f"Run {install}."
        )
    missing = [name for name in target.backend.providers if name not in host.ort_providers]
    if missing:
        # The packages share one module name: the second one to be installed overwrites the first.
        raise MissingDependencyError(
            f'Target "{target.name}" needs {missing[0]}, which the installed ONNX Runtime {host.ort_version} lacks.',
            f"Run pip uninstall --yes onnxruntime, then {install}.",
        )
    if host.cuda_driver is None and needs_gpu(target):
        raise DeviceError(
            f'Target "{target.name}" needs an NVIDIA GPU with its driver, and this machine shows none.',
            "Install the NVIDIA driver (nvidia-smi must list the GPU), or use --target cpu.",
        )


def _check_trt(target: Target, host: Host) -> None:
    name = next(name for name in PRODUCTS if name == target.backend.kind)
    if name not in host.compilers:
        product = PRODUCTS[name]
        raise MissingDependencyError(
            f'Target "{target.name}" runs on {product.title}, which is not installed.', product.install
        )
    if host.cuda_driver is None:
        raise DeviceError(
            f'Target "{target.name}" needs an NVIDIA GPU with its driver, and this machine shows none.',
            "Copy the bundle to the device and run it there; to run the model here, build it with --target cpu.",
        )


_CHECKS: Mapping[BackendKind, Callable[[Target, Host], None]] = {
    "ort": _check_ort,
    "trt": _check_trt,
    "trt-rtx": _check_trt,
}
