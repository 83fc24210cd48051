"""From a target to the backend that runs its bundles on this machine, and to what its engines are bound to here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stc_engines.detect import read_device, read_gpu
from stc_engines.fingerprint import fingerprint_of
from stc_engines.runnable import check_runnable
from stc_engines.table import find_target
from stc_engines.trt.log import make_log
from stc_engines.trt.product import PRODUCTS, check_flavour, load_product
from stc_export.spec.engines import find_engines
from stc_export.spec.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stc_engines.detect import Gpu
    from stc_engines.table import BackendKind, Streams, Target
    from stc_engines.trt.product import ProductName
    from stc_export.spec.engines import Fingerprint
    from stc_export.spec.manifest import Manifest
    from stc_runtime.backends.base import Backend


def open_backend(path: str | Path, threads: int | None = None) -> Backend:
    """Open what runs a bundle on this machine: that of the target which it was built for.

    Args:
        path: Directory of the bundle.
        threads: Threads inside an operator on the CPU; ``None``: the backend's default.

    Raises:
        BundleError: The bundle cannot be used, or holds no engines for this device.
        MissingDependencyError: The backend is not installed, or too old for the flavour of the graphs.
        DeviceError: The device is not here.
    """
    from stc_export.spec.manifest import read_manifest

    manifest = read_manifest(Path(path))
    target = find_target(manifest.target)
    check_runnable(target)
    return _OPENERS[target.backend.kind](target, Path(path), manifest, threads)


def _open_ort(target: Target, _root: Path, _manifest: Manifest, threads: int | None) -> Backend:
    from stc_runtime.backends.ort import OrtBackend

    return OrtBackend(target.backend.providers, threads)


def _open_engines(target: Target, root: Path, manifest: Manifest, _threads: int | None) -> Backend:
    product = product_of(target)
    return open_folder(product, find_engines(root, fingerprint_here(manifest, target)), target.backend.streams)


def open_folder(product: ProductName, folder: Path, streams: Streams = "one") -> Backend:
    """Open what runs the engines of a folder, on one stream or on two.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        DeviceError: There is no GPU.
    """
    from stc_runtime.backends.cuda import CudaDevice
    from stc_runtime.backends.trt import TrtBackend

    trt = load_product(product)
    openers: Mapping[Streams, Callable[..., Backend]] = {"one": TrtBackend, "two": TrtBackend.on_two_streams}
    return openers[streams](trt, make_log(trt), CudaDevice(), folder)


_OPENERS: Mapping[BackendKind, Callable[[Target, Path, Manifest, int | None], Backend]] = {
    "ort": _open_ort,
    "trt": _open_engines,
    "trt-rtx": _open_engines,
}


def product_of(target: Target) -> ProductName:
    """Return what the engines of a target are built with.

    Raises:
        UsageError: It needs none.
    """
    for name in PRODUCTS:
        if name == target.backend.kind:
            return name
    compilers = ", ".join(PRODUCTS[name].title for name in PRODUCTS)
    raise UsageError(
        f'Target "{target.name}" runs the graphs of a bundle as they are: there is nothing to seal.',
        f"Name a target that runs on {compilers} with --target, or run the bundle.",
    )


def fingerprint_here(manifest: Manifest, target: Target) -> Fingerprint:
    """Return what engines would be bound to on this machine.

    Raises:
        UsageError: The target needs no engines.
        MissingDependencyError: Its compiler is not installed, or too old for the flavour of the graphs.
        DeviceError: Its engines are bound to a device, and there is none here.
    """
    product = product_of(target)
    version = str(load_product(product).__version__)
    check_flavour(product, version, manifest.flavour)
    gpu = gpu_of(target) if PRODUCTS[product].bound else None
    return fingerprint_of(manifest, product, version, gpu, read_device().l4t if gpu else None)


def gpu_of(target: Target) -> Gpu:
    """Return the GPU of this machine.

    Raises:
        DeviceError: There is none.
    """
    gpu = read_gpu()
    if gpu is None:
        raise DeviceError(
            f'Engines for "{target.name}" are built on the device itself, and this machine shows no NVIDIA GPU.',
            "Copy the bundle to the device and run stc-export seal there.",
        )
    return gpu
