"""An NVIDIA GPU through the CUDA driver: memory, copies, a stream, CUDA graphs. Needs the driver and nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import DeviceError, ResourceError

#: CUresult: memory does not suffice.
_OUT_OF_MEMORY = 2
#: CU_STREAM_NON_BLOCKING: the stream waits for nobody else's work.
_NON_BLOCKING = 1
#: CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is their business.
_THREAD_LOCAL = 1


#: CU_MEMORYTYPE_DEVICE.
_ON_DEVICE = 2


@dataclass(frozen=True)
class Rows:
    """Rows on a device at equal distances.

    Attributes:
        address: Where the first begins.
        pitch: Bytes from there to the beginning of the next.
    """

    address: int
    pitch: int


class _Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D_v2: places and kinds of memory of source and target, then the size of what is copied."""

    _fields_ = [
        ("srcXInBytes", ctypes.c_size_t),
        ("srcY", ctypes.c_size_t),
        ("srcMemoryType", ctypes.c_uint),
        ("srcHost", ctypes.c_void_p),
        ("srcDevice", ctypes.c_uint64),
        ("srcArray", ctypes.c_void_p),
        ("srcPitch", ctypes.c_size_t),
        ("dstXInBytes", ctypes.c_size_t),
        ("dstY", ctypes.c_size_t),
        ("dstMemoryType", ctypes.c_uint),
        ("dstHost", ctypes.c_void_p),
        ("dstDevice", ctypes.c_uint64),
        ("dstArray", ctypes.c_void_p),
        ("dstPitch", ctypes.c_size_t),
        ("WidthInBytes", ctypes.c_size_t),
        ("Height", ctypes.c_size_t),
    ]


class Device(Protocol):
    """What a backend needs of a GPU; a test brings its own."""

    @property
    def stream(self) -> int:
        """Handle of the stream that copies and kernels are put on."""
        ...

    def fork(self) -> Device:
        """Return the same device with another stream; the two do not wait for each other."""
        ...

    def enter(self) -> None:
        """Make the device that of the calling thread."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of at least ``size`` bytes.

        Raises:
            ResourceError: There are not so many.
        """
        ...

    def free(self, address: int) -> None:
        """Give memory back."""
        ...

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Return memory of the host [size] that the device copies from and to by itself.

        Raises:
            ResourceError: There is not so much.
        """
        ...

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Give it back; it must not be touched any more."""
        ...

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Put a copy of an array to the device on the stream."""
        ...

    def download(self, array: NDArray[Any], address: int) -> None:
        """Put a copy from the device to an array on the stream."""
        ...

    def copy(self, to: int, source: int, size: int) -> None:
        """Put a copy within the device on the stream; the two must not overlap."""
        ...

    def copy_rows(self, to: Rows, source: Rows, size: int, count: int) -> None:
        """Put the copy of ``count`` rows of ``size`` bytes each within the device on the stream."""
        ...

    def clear(self, address: int, size: int) -> None:
        """Put the writing of zeros on the stream."""
        ...

    def capture(self, work: Callable[[], None]) -> int:
        """Return a CUDA graph of what ``work`` puts on the stream, which is not done yet.

        Raises:
            DeviceError: Something in it cannot be part of a graph.
        """
        ...

    def launch(self, graph: int) -> None:
        """Put a CUDA graph on the stream."""
        ...

    def forget(self, graph: int) -> None:
        """Destroy a CUDA graph."""
        ...

    def wait(self) -> None:
        """Wait until everything on the stream is done."""
        ...


class CudaDevice:
    """The first GPU, in its primary context: the one that TensorRT uses.

    Args:
        library: The driver.

    Raises:
        DeviceError: There is no driver or no GPU.
    """

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._driver = ctypes.CDLL(library)
        except OSError as error:
            raise DeviceError(
                f"The NVIDIA driver is not here ({error}).", "Install it (nvidia-smi must list the GPU)."
            ) from error
        self._library = library
        device, self._context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self._stream = stream.value or 0

    @property
    def stream(self) -> int:
        """See :class:`Device`."""
        return self._stream

    def fork(self) -> CudaDevice:
        """See :class:`Device`."""
        return CudaDevice(self._library)

    def enter(self) -> None:
        """See :class:`Device`."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """See :class:`Device`."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """See :class:`Device`."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """See :class:`Device`."""
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), 0)
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (size,))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """See :class:`Device`."""
        self._call("cuMemFreeHost", ctypes.c_void_p(memory.ctypes.data))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """See :class:`Device`."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), array.nbytes)

    def download(self, array: NDArray[Any], address: int) -> None:
        """See :class:`Device`."""
        self._copy("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), array.nbytes)

    def copy(self, to: int, source: int, size: int) -> None:
        """See :class:`Device`."""
        self._copy("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(to), ctypes.c_uint64(source), size)

    def copy_rows(self, to: Rows, source: Rows, size: int, count: int) -> None:
        """See :class:`Device`."""
        places = _Copy2D(srcMemoryType=_ON_DEVICE, srcDevice=source.address, srcPitch=source.pitch)
        places.dstMemoryType, places.dstDevice, places.dstPitch = _ON_DEVICE, to.address, to.pitch
        places.WidthInBytes, places.Height = size, count
        self._call("cuMemcpy2DAsync_v2", ctypes.byref(places), ctypes.c_void_p(self._stream))

    def clear(self, address: int, size: int) -> None:
        """See :class:`Device`."""
        stream = ctypes.c_void_p(self._stream)
        self._call("cuMemsetD8Async", ctypes.c_uint64(address), ctypes.c_ubyte(0), ctypes.c_size_t(size), stream)

    def capture(self, work: Callable[[], None]) -> int:
        """See :class:`Device`."""
        stream, graph, ready = ctypes.c_void_p(self._stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
        try:
            work()
        finally:  # also ends a capture that failed, which would make the stream useless
            self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        finally:
            self._call("cuGraphDestroy", graph)
        return ready.value or 0

    def launch(self, graph: int) -> None:
        """See :class:`Device`."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(self._stream))

    def forget(self, graph: int) -> None:
        """See :class:`Device`."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def wait(self) -> None:
        """See :class:`Device`."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self._stream))

    def _copy(self, name: str, to: Any, source: Any, size: int) -> None:
        if size:
            self._call(name, to, source, ctypes.c_size_t(size), ctypes.c_void_p(self._stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise ResourceError("The GPU has no memory left.", "Close other programs, or use a smaller model.")
        if code:
            raise DeviceError(
                f"The NVIDIA driver refuses {name} (error {code}).", "See nvidia-smi and stc-export doctor."
            )
