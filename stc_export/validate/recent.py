"""What was used last stays in memory, as far as there is room."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by name. When there are too many bytes of them, those that were used longest ago are dropped.

    Args:
        most_bytes: Room for all values together; the newest stays even if it alone is larger.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def get(self, name: str) -> T | None:
        """Return a value, or ``None`` if it is not there any more."""
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name][0]

    def put(self, name: str, value: T, nbytes: int) -> None:
        """Keep a value of so many bytes."""
        self._values[name] = value, nbytes
        self._values.move_to_end(name)
        while len(self._values) > 1 and sum(size for _, size in self._values.values()) > self._most_bytes:
            self._values.popitem(last=False)
