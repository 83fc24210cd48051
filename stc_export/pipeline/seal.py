"""``seal``: from a portable bundle to engines for this device. Imports nothing that a device need not have."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from stc_engines.detect import read_gpu
from stc_engines.opening import fingerprint_here, open_folder, product_of
from stc_engines.seal import NotChecked, Order, seal
from stc_engines.table import find_target
from stc_engines.trt.product import PRODUCTS, load_product
from stc_export import __version__
from stc_export.pipeline.types import SealRequest, SealResult
from stc_export.spec.engines import FOLDER, find_whole
from stc_export.spec.errors import MissingDependencyError
from stc_runtime.bundle import Bundle

#: Why engines are not checked.
_NO_GPU = "This machine shows no NVIDIA GPU to run them on."

if TYPE_CHECKING:
    from stc_engines.table import Target
    from stc_export.pipeline.types import BuildRequest, BuildResult
    from stc_export.spec.progress import Progress


def seal_bundle(request: SealRequest, progress: Progress) -> SealResult:
    """Build the engines of a bundle for this device, or find that they are there.

    Raises:
        StcError: The bundle cannot be used, the target needs no engines, the compiler or the device is missing, a
            graph does not build, or an engine's numbers are wrong.
    """
    bundle = Bundle.open(request.bundle)
    for graph in bundle.manifest.graphs:
        bundle.check_graph(graph)
    target = find_target(request.target or bundle.manifest.target)
    product = product_of(target)
    fingerprint = fingerprint_here(bundle.manifest, target)
    folder = request.bundle / FOLDER / fingerprint.key
    there = None if request.overwrite else find_whole(folder)
    if there is not None:
        return SealResult(request.bundle, target.name, folder, there, built=False)
    progress.note(f"compiler: {PRODUCTS[product].title} {fingerprint.version}")
    writer = f"stc-export {__version__}"
    order = Order(request.bundle, bundle.manifest, target, product, fingerprint, writer)
    check = NotChecked(_NO_GPU) if read_gpu() is None else partial(open_folder, product)
    record = seal(order, check, progress)
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
    product = product_of(target)
    try:
        load_product(product)
    except MissingDependencyError:
        return False
    gpu = read_gpu()
    return not PRODUCTS[product].bound or (gpu is not None and gpu.sm == target.sm)
