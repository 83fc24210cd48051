"""Where tensors of an engine lie that have no place of their own on the device.

What the host feeds or reads has pinned memory with memory on the device beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stc_runtime.backends.device_store import Scratch

if TYPE_CHECKING:
    from stc_runtime.backends.cuda import Device


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tensor is staged.

    Attributes:
        host: Pinned uint8 [bytes].
        address: As many bytes on the device.
    """

    host: NDArray[np.uint8]
    address: int


class Staging:
    """Places by name, each as large as the largest tensor of that name so far."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._places: dict[str, Place] = {}
        self._asides: dict[str, Scratch] = {}

    def place(self, name: str, size: int) -> Place:
        """Return where ``size`` bytes of a tensor are staged.

        Raises:
            ResourceError: There is no memory for them.
        """
        room = max(size, 1)  # even nothing must lie somewhere
        place = self._places.get(name)
        if place is None or room > place.host.size:
            if place is not None:
                del self._places[name]
                self._device.free(place.address)
                self._device.free_pinned(place.host)
            place = self._places[name] = Place(self._device.pinned(room), self._device.allocate(room))
        return Place(place.host[:size], place.address)

    def aside(self, name: str, size: int) -> int:
        """Return the address of ``size`` bytes for a tensor that stays on the device.

        Raises:
            ResourceError: There are not so many.
        """
        return self._asides.setdefault(name, Scratch(self._device)).at_least(max(size, 1))
