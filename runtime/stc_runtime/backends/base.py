"""What a backend is: it opens graphs as engines, and an engine runs on arrays of the host or of its own device.

Protocols, so that a backend needs no import of ours, and so that a test can bring its own (:mod:`stc_runtime.testing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_export.spec.manifest import GraphEntry, TensorSpec
from stc_runtime.backends.store import Store, Tensor
from stc_runtime.dtypes import carrier

Arrays = Mapping[str, NDArray[Any]]
Tensors = Mapping[str, Tensor]


class Engine(Protocol):
    """A graph that is ready to run. It keeps no state between calls."""

    def run(self, feeds: Tensors, into: Tensors) -> Arrays:
        """Run once.

        Args:
            feeds: One C-contiguous array per declared input, in the type that carries its own (see
                :mod:`stc_runtime.dtypes`): of the host, or of a store of the same backend.
            into: Outputs to be written in place, of exactly the shape that results, of either kind; C-contiguous, or
                at least each block of the last two dimensions (see :func:`stc_runtime.backends.store.cut`). If the
                backend is ``in_place``, an array may be the same memory as the input that the output updates.

        Returns:
            The outputs that ``into`` does not name, as new arrays. Those of the LLM may be waited for when they are
            first looked at (see :attr:`Backend.llm`); what goes wrong by then is raised there.

        Raises:
            ValueError: Arrays that are not as declared (see :func:`check_arrays`); nothing was written.
        """
        ...


class Backend(Protocol):
    """Opens graphs, and reserves the memory that the state of a stream lies in.

    Attributes:
        in_place: Whether an output may be the same memory as the input that it updates.
    """

    in_place: bool

    @property
    def llm(self) -> Backend:
        """What runs the LLM and holds its memory: this backend, or one that works beside it.

        Runs of one that works beside it return before they are done, and the work of each of the two is done in order.
        """
        ...

    def store(self, count: int, dtype: DTypeLike) -> Store:
        """Reserve a row of ``count`` zeros, for as long as the store is referred to.

        Raises:
            ResourceError: Memory does not suffice.
        """
        ...

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Open a graph of a bundle.

        Args:
            root: Directory of the bundle.
            graph: Its entry in the manifest.

        Raises:
            DeviceError: The device is not here.
            BundleError: The graph cannot be read, or has another interface than its entry says.
        """
        ...


def check_arrays(graph: GraphEntry, feeds: Tensors, into: Tensors) -> dict[str, int]:
    """Check the arrays of a call against what the graph declares. Engines do this before they hand out addresses.

    Args:
        graph: Entry of the graph.
        feeds: Inputs.
        into: Outputs to be written in place.

    Returns:
        The value of each dimension letter.

    Raises:
        ValueError: A missing input, a name that the graph does not have, another type, rank or dimension than declared,
            a letter with two values, an array that is not contiguous, or an output that is read-only. This is a defect
            of the caller, not of a user's input.
    """
    _check_names(graph, "input", feeds, graph.inputs)
    _check_names(graph, "output", into, graph.outputs)
    letters: dict[str, int] = {}
    for spec in graph.inputs:
        if spec.name not in feeds:
            raise ValueError(f"{graph.file}: the input {spec.name} is missing")
        _check_array(graph, spec, feeds[spec.name], letters, _contiguous)
    for spec in graph.outputs:
        if spec.name in into:
            _check_array(graph, spec, into[spec.name], letters, _in_blocks)
            if not _writeable(into[spec.name]):
                raise ValueError(f"{graph.file}: {spec.name} is read-only and cannot be written")
    return letters


def _check_names(graph: GraphEntry, kind: str, given: Iterable[str], declared: Iterable[TensorSpec]) -> None:
    unknown = set(given) - {spec.name for spec in declared}
    if unknown:
        raise ValueError(f"{graph.file}: there is no {kind} {', '.join(sorted(unknown))}")


def _check_array(
    graph: GraphEntry, spec: TensorSpec, array: Tensor, letters: dict[str, int], lies: Callable[[Tensor], bool]
) -> None:
    """Check one array, and that it lies as it should, and add the letters of its shape to those known."""
    fits = array.dtype == carrier(spec.dtype) and len(array.shape) == len(spec.shape) and lies(array)
    if fits:
        for want, have in zip(spec.shape, array.shape, strict=True):
            fits &= (letters.setdefault(want, have) if isinstance(want, str) else want) == have
    if not fits:
        known = ", ".join(f"{letter} = {value}" for letter, value in sorted(letters.items()))
        raise ValueError(
            f"{graph.file}: {spec.name} is {array.dtype} {array.shape}, declared {spec.dtype} {spec.shape} contiguous"
            + (f" with {known}" if known else "")
        )


def _contiguous(array: Tensor) -> bool:
    return array.flags.c_contiguous if isinstance(array, np.ndarray) else not array.pitch


def _in_blocks(array: Tensor) -> bool:
    """Whether it is contiguous, or at least each block of its last two dimensions."""
    if not isinstance(array, np.ndarray):
        return True
    return array.flags.c_contiguous or (array.ndim > 2 and array[(0,) * (array.ndim - 2)].flags.c_contiguous)


def _writeable(array: Tensor) -> bool:
    return not isinstance(array, np.ndarray) or array.flags.writeable
