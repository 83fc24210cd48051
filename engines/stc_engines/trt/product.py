"""The two products that build engines: TensorRT, and TensorRT-RTX for desktop GPUs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stc_export.spec.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stc_export.spec.manifest import Flavour

ProductName = Literal["trt", "trt-rtx"]


@dataclass(frozen=True)
class Product:
    """A product.

    Attributes:
        title: Its name for people.
        module: Its Python module.
        oldest: The first release that has what graphs of a flavour need.
        install: How to get it.
        update: How to get a newer one.
        bound: Whether its engines are bound to the device that they were built on, which it then needs to build.
        times: Whether it times kernels, which a timing cache spares later builds.
    """

    title: str
    module: str
    oldest: Mapping[Flavour, tuple[int, int]]
    install: str
    update: str
    bound: bool
    times: bool


PRODUCTS: Mapping[ProductName, Product] = {
    "trt": Product(
        "TensorRT",
        "tensorrt",
        {"base": (10, 3), "modern": (10, 16)},
        "On a Jetson it comes with JetPack: create the environment with python3 -m venv --system-site-packages.",
        "Update to JetPack 6.1 or newer.",
        bound=True,
        times=True,
    ),
    "trt-rtx": Product(
        "TensorRT-RTX",
        "tensorrt_rtx",
        {"base": (1, 7), "modern": (1, 7)},
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
    if _release(version) < product.oldest["base"]:
        oldest = _text(product.oldest["base"])
        raise MissingDependencyError(
            f"{product.title} {version} is too old: engines are built and run with {oldest} or newer.", product.update
        )
    return module


def check_flavour(name: ProductName, version: str, flavour: Flavour) -> None:
    """Check that a release of a product has the operators of a flavour.

    Raises:
        MissingDependencyError: It does not.
    """
    product = PRODUCTS[name]
    if _release(version) < product.oldest[flavour]:
        raise MissingDependencyError(
            f'The graphs of the bundle are of the flavour "{flavour}", which needs {product.title} '
            f"{_text(product.oldest[flavour])} or newer; this is {version}.",
            "Build the bundle with --flavour base, or update the JetPack or TensorRT of the device.",
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _text(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
