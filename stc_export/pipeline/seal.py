"""``seal``: from a portable bundle to engines for this device. Imports nothing that a device need not have."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from stc_engines.detect import read_device, read_gpu
from stc_engines.fingerprint import fingerprint_of
from stc_engines.seal import NotChecked, Order, seal
from stc_engines.table import find_target
from stc_engines.trt.product import PRODUCTS, load_product
from stc_export import __version__
from stc_export.pipeline.types import SealRequest, SealResult
from stc_export.spec.engines import FOLDER, is_whole, read_record
from stc_export.spec.errors import DeviceError, StcError, UsageError
from stc_runtime.bundle import Bundle

#: Why engines are not checked.
_NO_RUNNER = "This version builds {} engines and cannot run them yet."

if TYPE_CHECKING:
    from stc_engines.detect import Gpu
    from stc_engines.table import Target
    from stc_engines.trt.product import Product, ProductName
    from stc_export.pipeline.types import BuildRequest, BuildResult
    from stc_export.spec.engines import Fingerprint
    from stc_export.spec.manifest import Manifest
    from stc_export.spec.progress import Progress


def seal_bundle(request: SealRequest, progress: Progress) -> SealResult:
    """Build the engines of a bundle for this device, or find that they are there.

    Raises:
        StcError: The bundle cannot be used, the target needs no engines, the compiler or the device is missing, a
            graph does not build, or an engine's numbers are wrong.
    """
    bundle = Bundle.open(request.bundle)
    target = find_target(request.target or bundle.manifest.target)
    product = _product_of(target)
    fingerprint = _fingerprint(bundle.manifest, target, product)
    folder = request.bundle / FOLDER / fingerprint.key
    if not request.overwrite and is_whole(folder):
        return SealResult(request.bundle, target.name, folder, read_record(folder), built=False)
    progress.note(f"compiler: {PRODUCTS[product].title} {fingerprint.version}")
    writer = f"stc-export {__version__}"
    order = Order(request.bundle, bundle.manifest, target, product, fingerprint, writer)
    record = seal(order, NotChecked(_NO_RUNNER.format(PRODUCTS[product].title)), progress)
    return SealResult(request.bundle, target.name, folder, record, built=True)


def build_and_seal(request: BuildRequest, progress: Progress) -> BuildResult:
    """Build a bundle, and its engines if this machine has the compiler and the device of its target.

    Raises:
        StcError: The bundle cannot be built, and is not there; or its engines cannot, and the bundle is there.
    """
    from stc_export.pipeline.build import run_build

    result = run_build(request, progress)
    target = find_target(result.manifest.target)
    if not can_seal(target):
        return result
    return dataclasses.replace(result, sealed=seal_bundle(SealRequest(result.bundle), progress))


def can_seal(target: Target) -> bool:
    """Whether this machine has what the engines of a target are built with."""
    if target.backend.kind not in PRODUCTS:
        return False
    product = _product_of(target)
    try:
        load_product(product)
        gpu = _gpu_of(target, PRODUCTS[product])
    except StcError:
        return False
    return gpu is None or gpu.sm == target.sm


def _product_of(target: Target) -> ProductName:
    for name in PRODUCTS:
        if name == target.backend.kind:
            return name
    with_engines = ", ".join(PRODUCTS[name].title for name in PRODUCTS)
    raise UsageError(
        f'Target "{target.name}" runs the graphs of a bundle as they are: there is nothing to seal.',
        f"Name a target that runs on {with_engines} with --target, or run the bundle.",
    )


def _fingerprint(manifest: Manifest, target: Target, product: ProductName) -> Fingerprint:
    version = str(load_product(product).__version__)
    gpu = _gpu_of(target, PRODUCTS[product])
    return fingerprint_of(manifest, product, version, gpu, read_device().l4t if gpu else None)


def _gpu_of(target: Target, product: Product) -> Gpu | None:
    """Return the GPU that engines would be bound to; ``None`` if they are bound to none."""
    if not product.bound:
        return None
    gpu = read_gpu()
    if gpu is None:
        raise DeviceError(
            f'Engines for "{target.name}" are built on the device itself, and this machine shows no NVIDIA GPU.',
            "Copy the bundle to the device and run stc-export seal there.",
        )
    return gpu
