"""An NVIDIA GPU through the CUDA driver: memory, copies and a stream. Needs the driver and nothing else."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from numpy.typing import NDArray

from stc_export.spec.errors import DeviceError, ResourceError

#: CUresult: memory does not suffice.
_OUT_OF_MEMORY = 2
#: CU_STREAM_NON_BLOCKING: the stream waits for nobody else's work.
_NON_BLOCKING = 1


class Device(Protocol):
    """What a backend needs of a GPU; a test brings its own."""

    @property
    def stream(self) -> int:
        """Handle of the stream that copies and kernels are put on."""
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

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Put a copy of an array to the device on the stream."""
        ...

    def download(self, array: NDArray[Any], address: int) -> None:
        """Put a copy from the device to an array on the stream."""
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

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """See :class:`Device`."""
        self._copy("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), array.nbytes)

    def download(self, array: NDArray[Any], address: int) -> None:
        """See :class:`Device`."""
        self._copy("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), array.nbytes)

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
