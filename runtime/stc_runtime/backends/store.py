"""Where the state of a stream lies: in memory that the graphs of a backend read and write without a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array on a device, as engines take it in place of one on the host.

    Attributes:
        address: Where it lies.
        shape: Its shape.
        dtype: Its type.
        pitch: Bytes from one block of the last two dimensions to the next; 0 if the array is C-contiguous.
    """

    address: int
    shape: Shape
    dtype: np.dtype[Any]
    pitch: int = 0

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


#: What an engine reads and writes.
Tensor = NDArray[Any] | DeviceArray


class Store(Protocol):
    """A row of numbers of one type. Places and counts are in numbers; what is read is a copy."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    def tensor(self, shape: Shape) -> Tensor:
        """Return the first numbers as an array, which engines read and write."""
        ...

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Return ``count`` numbers from ``start`` on."""
        ...

    def write(self, start: int, values: NDArray[Any]) -> None:
        """Put values of any shape, in C order, to ``start`` and behind."""
        ...

    def move(self, to: int, start: int, count: int) -> None:
        """Copy a run within the store; source and target may overlap."""
        ...

    def take_rows(self, source: Tensor, rows: NDArray[np.int64]) -> None:
        """Copy rows of an array [N, W] of another store of this backend to the same places; ``rows`` are ascending."""
        ...

    def clear(self) -> None:
        """Set every number to 0."""
        ...


class HostStore:
    """A store in the memory of the host; its arrays are numpy views.

    Args:
        count: Numbers.
        dtype: Their type.
    """

    def __init__(self, count: int, dtype: DTypeLike) -> None:
        self._data = np.empty(count, dtype)
        self.clear()  # zeros of numpy may be pages that do not exist yet

    @property
    def nbytes(self) -> int:
        """See :class:`Store`."""
        return self._data.nbytes

    def tensor(self, shape: Shape) -> NDArray[Any]:
        """See :class:`Store`."""
        return self._data[: math.prod(shape)].reshape(shape)

    def read(self, start: int, count: int) -> NDArray[Any]:
        """See :class:`Store`."""
        return self._data[start : start + count].copy()

    def write(self, start: int, values: NDArray[Any]) -> None:
        """See :class:`Store`."""
        self._data[start : start + values.size].reshape(values.shape)[...] = values

    def move(self, to: int, start: int, count: int) -> None:
        """See :class:`Store`; in one dimension numpy needs no copy aside for overlapping runs."""
        self._data[to : to + count] = self._data[start : start + count]

    def take_rows(self, source: Tensor, rows: NDArray[np.int64]) -> None:
        """See :class:`Store`."""
        values = host_arrays({"source": source})["source"]
        self.tensor(values.shape)[rows] = values[rows]

    def clear(self) -> None:
        """See :class:`Store`."""
        self._data.fill(0)


class HostMemory:
    """The part of a backend whose graphs run in the memory of the host."""

    #: Whether an output may be the same memory as the input that it updates.
    in_place = True

    @property
    def llm(self) -> Self:
        """What runs the LLM: the same."""
        return self

    def store(self, count: int, dtype: DTypeLike) -> HostStore:
        """Reserve a store of zeros (see :class:`stc_runtime.backends.base.Backend`)."""
        return HostStore(count, dtype)


def cut(tensor: Tensor, start: int, count: int) -> Tensor:
    """Return the part [..., start : start + count, W] of a C-contiguous array [..., N, W], in the same memory."""
    if isinstance(tensor, np.ndarray):
        return tensor[..., start : start + count, :]
    *outer, rows, width = tensor.shape
    size = width * tensor.dtype.itemsize
    return DeviceArray(tensor.address + start * size, (*outer, count, width), tensor.dtype, rows * size)


def host_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Return arrays of the host as such.

    Raises:
        ValueError: One lies on a device. A defect of the caller.
    """
    arrays = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray)}
    if len(arrays) != len(tensors):
        raise ValueError(f"{', '.join(sorted(tensors.keys() - arrays.keys()))} lies on a device")
    return arrays
