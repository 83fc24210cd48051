"""Listen to what flows into the layers of graphs while a session runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stc_export.spec.manifest import GraphEntry
from stc_runtime.backends.base import Arrays, Backend, Engine, Tensors
from stc_runtime.backends.store import Store
from stc_runtime.dtypes import widened

#: Graph -> output -> layers that it flows into.
Heard = Mapping[str, Mapping[str, tuple[str, ...]]]
#: Takes in a layer and its input, float32.
Hear = Callable[[str, NDArray[np.float32]], None]


class ListeningBackend:
    """A backend some of whose graphs tell what flows into their layers.

    Args:
        inner: What executes them.
        outputs: Which of their outputs that is, by the file of the graph.
        hear: Called with each.
    """

    def __init__(self, inner: Backend, outputs: Heard, hear: Hear) -> None:
        self.in_place = inner.in_place
        self._inner, self._outputs, self._hear = inner, outputs, hear

    @property
    def llm(self) -> Backend:
        """As :attr:`stc_runtime.backends.base.Backend.llm`."""
        return self._inner.llm

    def store(self, count: int, dtype: DTypeLike) -> Store:
        """Reserve memory (see :class:`stc_runtime.backends.base.Backend`)."""
        return self._inner.store(count, dtype)

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Open a graph (see :class:`stc_runtime.backends.base.Backend`)."""
        return _ListeningEngine(self._inner.open(root, graph), self._outputs.get(graph.file, {}), self._hear)


@dataclass(frozen=True)
class _ListeningEngine:
    inner: Engine
    outputs: Mapping[str, tuple[str, ...]]
    hear: Hear

    def run(self, feeds: Tensors, into: Tensors) -> Arrays:
        found = self.inner.run(feeds, into)
        for name, layers in self.outputs.items():
            values: NDArray[Any] = np.asarray(widened(found[name]), np.float32)
            for layer in layers:
                self.hear(layer, values)
        return {name: value for name, value in found.items() if name not in self.outputs}
