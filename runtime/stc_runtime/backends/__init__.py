"""Backends: what executes the graphs of a bundle. A new one is a module and a row of :data:`BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stc_export.spec.errors import DeviceError, nearest
from stc_runtime.backends.base import Backend
from stc_runtime.backends.ort import OrtBackend

#: Kind, as targets name it -> how it is opened, from execution providers and threads (``None``: the backend's default).
BACKENDS: Mapping[str, Callable[[tuple[str, ...], int | None], Backend]] = {"ort": OrtBackend}


def open_backend(kind: str, providers: tuple[str, ...], threads: int | None = None) -> Backend:
    """Open a backend by its kind.

    Raises:
        DeviceError: This version has no such backend, or the machine lacks what it needs.
        MissingDependencyError: Its package is not installed.
    """
    opener = BACKENDS.get(kind)
    if opener is None:
        raise DeviceError(f'This version has no backend "{kind}".', nearest(kind, BACKENDS))
    return opener(providers, threads)
