"""What the host feeds to an engine or reads from it: pinned memory with memory on the device beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
