"""State of a stream on a device."""

from __future__ import annotations

import math
import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_runtime.backends.store import DeviceArray, Shape, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stc_runtime.backends.cuda import Device


class Scratch:
    """Memory on a device for what is needed one after the other; it grows to the largest demand.

    Everything that uses it is put on one stream, so that nothing is overwritten before it was read.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._address, self._size = 0, 0

    @property
    def size(self) -> int:
        """Bytes that there are."""
        return self._size

    def at_least(self, size: int) -> int:
        """Return the address of at least ``size`` bytes, which may have changed since the last time.

        Raises:
            ResourceError: There are not so many.
        """
        if size > self._size:
            self._device.wait()
            if self._address:
                self._device.free(self._address)
            self._address = self._size = 0
            self._address, self._size = self._device.allocate(size), size
        return self._address


@dataclass(frozen=True)
class Shared:
    """What the engines and stores of a backend have in common.

    Attributes:
        device: The GPU.
        scratch: What a context needs while it runs, and what a run that overlaps with its target is copied through.
        lock: Held by whoever puts work on the stream: what others put there meanwhile would get into a CUDA graph.
        awaited: Whether a run returns when it is done; else when it is on the stream.
    """

    device: Device
    scratch: Scratch
    lock: threading.RLock
    awaited: bool = True

    def beside(self) -> Shared:
        """Return the same GPU with a stream and scratch memory of its own, whose runs are not awaited.

        The lock is the same: memory is given back by whichever thread comes to it, and two locks could cross.
        """
        device = self.device.fork()
        return Shared(device, Scratch(device), self.lock, awaited=False)


class DeviceStore:
    """A store on a device (see :class:`stc_runtime.backends.store.Store`); its memory is freed with it.

    Args:
        shared: The GPU.
        count: Numbers.
        dtype: Their type.
    """

    def __init__(self, shared: Shared, count: int, dtype: DTypeLike) -> None:
        self._shared, self._device = shared, shared.device
        self._dtype, self._count = np.dtype(dtype), count
        with self._entered():
            self._address = self._device.allocate(self.nbytes)
            weakref.finalize(self, _free, shared, self._address).atexit = False  # the driver may be gone by then
        self.clear()

    @property
    def nbytes(self) -> int:
        """See :class:`Store`."""
        return self._count * self._dtype.itemsize

    def tensor(self, shape: Shape) -> DeviceArray:
        """See :class:`Store`."""
        self._check(0, math.prod(shape))
        return DeviceArray(self._address, shape, self._dtype)

    def read(self, start: int, count: int) -> NDArray[Any]:
        """See :class:`Store`."""
        self._check(start, count)
        values = np.empty(count, self._dtype)
        with self._entered():
            self._device.download(values, self._place(start))
            self._device.wait()
        return values

    def write(self, start: int, values: NDArray[Any]) -> None:
        """See :class:`Store`."""
        self._check(start, values.size)
        with self._entered():
            self._device.upload(self._place(start), np.ascontiguousarray(values, self._dtype))

    def move(self, to: int, start: int, count: int) -> None:
        """See :class:`Store`."""
        self._check(start, count)
        self._check(to, count)
        size, source = count * self._dtype.itemsize, self._place(start)
        with self._entered():
            if abs(to - start) < count:
                aside = self._shared.scratch.at_least(size)
                self._device.copy(aside, source, size)
                source = aside
            self._device.copy(self._place(to), source, size)

    def take_rows(self, source: Tensor, rows: NDArray[np.int64]) -> None:
        """See :class:`Store`; rows that follow each other are one copy."""
        if not isinstance(source, DeviceArray):
            raise TypeError("a store of a device takes rows that lie there")
        width, size = source.shape[1], self._dtype.itemsize
        runs = [run for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if run.size]
        with self._entered():
            for run in runs:
                first, count = int(run[0]) * width, run.size * width
                self._check(first, count)
                self._device.copy(self._place(first), source.address + first * size, count * size)

    def clear(self) -> None:
        """See :class:`Store`."""
        with self._entered():
            self._device.clear(self._address, self.nbytes)

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with self._shared.lock:
            self._device.enter()
            yield

    def _place(self, start: int) -> int:
        return self._address + start * self._dtype.itemsize

    def _check(self, start: int, count: int) -> None:
        if not 0 <= start <= start + count <= self._count:
            raise ValueError(f"numbers [{start}, {start + count}) of a store of {self._count}")


def _free(shared: Shared, address: int) -> None:
    with shared.lock:
        shared.device.enter()
        shared.device.wait()
        shared.device.free(address)
