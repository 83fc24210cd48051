"""What is asked of the CUDA driver, on a driver that is none."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import pytest

from stc_export.spec.errors import DeviceError
from stc_runtime.backends.cuda import CudaDevice, Rows

#: CUDA_MEMCPY2D_v2 as cuda.h has it: per side x, y, kind of memory, host, device, array, pitch; then width and height.
LAYOUT = struct.Struct("<" + 2 * "QQI4xQQQQ" + "QQ")
ON_DEVICE = 2


class Driver:
    """Takes every call, makes streams with numbers, and copies rows in the memory of the host."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuStreamCreate":
                arguments[0]._obj.value = self.calls.count(name)
            return 0

        return call

    def cuMemcpy2DAsync_v2(self, places: Any, stream: ctypes.c_void_p) -> int:  # noqa: N802 - its name
        self.calls.append(f"copy on {stream.value}")
        x, y, kind, host, source, array, pitch, to_x, to_y, to_kind, to_host, to, to_array, to_pitch, width, height = (
            LAYOUT.unpack(bytes(places._obj))
        )
        assert (kind, to_kind) == (ON_DEVICE, ON_DEVICE)
        assert not any((x, y, host, array, to_x, to_y, to_host, to_array))
        for row in range(height):
            ctypes.memmove(to + row * to_pitch, source + row * pitch, width)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: found)
    return found


def test_rows_are_copied_to_their_places_and_nothing_beside_them(driver: Driver) -> None:
    """New tokens [heads, S, d] into slots 2 and 3 of a cache [heads, P, d]."""
    rows = np.arange(3 * 2 * 4, dtype=np.float16).reshape(3, 2, 4)
    cache = np.full((3, 5, 4), -1, np.float16)
    to, size = cache.ctypes.data + 2 * cache.strides[1], rows.strides[0]
    CudaDevice().copy_rows(Rows(to, cache.strides[0]), Rows(rows.ctypes.data, size), size, 3)
    np.testing.assert_array_equal(cache[:, 2:4], rows)
    assert (np.delete(cache, [2, 3], axis=1) == -1).all()
    assert driver.calls[-1] == "copy on 1"


def test_fork_has_a_stream_of_its_own_in_the_same_context(driver: Driver) -> None:
    device = CudaDevice()
    other = device.fork()
    assert (device.stream, other.stream) == (1, 2)
    assert driver.calls.count("cuDevicePrimaryCtxRetain") == 2, "the primary context is one for all"
    assert "cuCtxCreate" not in " ".join(driver.calls)


def test_without_a_driver_the_error_says_so() -> None:
    with pytest.raises(DeviceError, match="NVIDIA driver is not here"):
        CudaDevice("libof-nobody.so.1")
