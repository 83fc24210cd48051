"""The two products that build engines: TensorRT, and TensorRT-RTX for desktop GPUs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stc_export.spec.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Mapping

ProductName = Literal["trt", "trt-rtx"]


@dataclass(frozen=True)
class Product:
    """A product.

    Attributes:
        title: Its name for people.
        module: Its Python module.
        oldest: The first release that will do.
        install: How to get it.
        update: How to get a newer one.
        bound: Whether its engines are bound to the device that they were built on, which it then needs to build.
        times: Whether it times kernels, which a timing cache spares later builds.
    """

    title: str
    module: str
    oldest: tuple[int, int]
    install: str
    update: str
    bound: bool
    times: bool


PRODUCTS: Mapping[ProductName, Product] = {
    "trt": Product(
        "TensorRT",
        "tensorrt",
        (10, 3),
        "On a Jetson it comes with JetPack: create the environment with python3 -m venv --system-site-packages.",
        "Update to JetPack 6.1 or newer.",
        bound=True,
        times=True,
    ),
    "trt-rtx": Product(
        "TensorRT-RTX",
        "tensorrt_rtx",
        (1, 7),
        'Run pip install "stc-export[rtx]".',
        'Run pip install --upgrade "stc-export[rtx]".',
        bound=False,
        times=False,  # it has the interface, but since 1.2 its functions do nothing and warn that they are deprecated
    ),
}


def load_product(name: ProductName) -> Any:
    """Import the module of a product.

    Raises:
        MissingDependencyError: It is not installed, too old, or its libraries cannot be loaded.
    """
    product = PRODUCTS[name]
    try:
        module = importlib.import_module(product.module)
    except (ImportError, OSError) as error:  # OSError: a library beside it is missing
        reason = str(error).splitlines()[0]
        raise MissingDependencyError(
            f"{product.title} cannot be imported ({reason.rstrip('.')}).", product.install
        ) from error
    version = str(module.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < product.oldest:
        oldest = ".".join(map(str, product.oldest))
        raise MissingDependencyError(
            f"{product.title} {version} is too old: engines are built and run with {oldest} or newer.", product.update
        )
    return module
