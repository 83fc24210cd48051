"""What a backend is: it opens graphs as engines, and an engine runs on numpy arrays.

Protocols, so that a backend needs no import of ours, and so that a test can bring its own (``stc_runtime.testing``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stc_export.spec.manifest import GraphEntry

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A graph that is ready to run. It keeps no state between calls."""

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, NDArray[Any]]:
        """Run once.

        Args:
            feeds: One C-contiguous array per declared input.
            into: Outputs to be written in place, C-contiguous, of exactly the shape that results. An array may be the
                same memory as an input that the graph reads before it writes the output (a cache updated in place).

        Returns:
            The outputs that ``into`` does not name, as new arrays.
        """
        ...


class Backend(Protocol):
    """Opens graphs."""

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Open a graph of a bundle.

        Args:
            root: Directory of the bundle.
            graph: Its entry in the manifest.

        Raises:
            DeviceError: The device is not here.
            BundleError: The graph cannot be read.
        """
        ...
