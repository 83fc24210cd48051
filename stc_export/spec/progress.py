"""How long work reports its progress. Work emits stages; whoever started it decides how they look."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Progress(Protocol):
    """Receiver of progress; implemented by the command line (bars or lines) and by :class:`Silent`."""

    def stage(
        self, name: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Open a stage and return a context whose value is called with the amount done since the last call.

        Args:
            name: What is done, e.g. ``weights``.
            total: Amount of work, or ``None`` if unknown.
            unit: Unit of the amount: ``B``, ``frames``, ``graphs``, ...
        """
        ...

    def note(self, text: str) -> None:
        """Show one line that is worth reading whether or not bars are drawn."""
        ...


class Silent:
    """A receiver that shows nothing: for libraries and tests."""

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        """Do nothing."""
        yield lambda _amount: None

    def note(self, text: str) -> None:
        """Do nothing."""
