"""An opened bundle: engines and tables that any number of sessions share. State is never in here."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.manifest import PRECISION_DTYPES, Manifest, Role
from stc_runtime.backends.base import Backend, Engine
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.bundle import Bundle
from stc_runtime.dtypes import carrier
from stc_runtime.embeddings import Embeddings
from stc_runtime.text import Tokenizer


class Model:
    """Engines of a bundle, each opened once, when it is first needed.

    Safe to use from several threads; the sessions made from it are independent of each other.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        """Take a checked bundle; :meth:`open` is the usual way.

        Args:
            bundle: The bundle.
            backend: What executes its graphs.
        """
        self._bundle = bundle
        self._backend = backend
        self._engines: dict[tuple[str, str], Engine] = {}
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._embeddings = Embeddings(bundle, self.dtype)
        self._newline = np.array(bundle.table("newline")).reshape(1, -1)

    @classmethod
    def open(cls, path: str | Path, backend: Backend | None = None) -> Model:
        """Open a bundle.

        Args:
            path: Its directory.
            backend: What executes its graphs; by default ONNX Runtime on the CPU.

        Raises:
            BundleError: The bundle is missing or damaged.
            MissingDependencyError: The backend is not installed.
        """
        return cls(Bundle.open(Path(path)), backend or OrtBackend())

    @property
    def backend(self) -> Backend:
        """What executes the graphs, and where the state of streams lies."""
        return self._backend

    @property
    def path(self) -> Path:
        """Directory of the bundle."""
        return self._bundle.root

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of numpy that carries activations and state (see :mod:`stc_runtime.dtypes`)."""
        return carrier(PRECISION_DTYPES[self.manifest.precision])

    @property
    def newline(self) -> NDArray[Any]:
        """Embedding [1, D] that follows the last frame when a question is asked."""
        return self._newline

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read when it is first needed.

        Raises:
            MissingDependencyError: The package ``tokenizers`` is not installed.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.open(self._bundle.root / self.manifest.tokenizer)
            return self._tokenizer

    def engine(self, role: Role, variant: str = "default") -> Engine:
        """Return the engine of a graph.

        Raises:
            BundleError: The bundle has no such graph, it is not one of ours, or the backend cannot open it.
        """
        entry = self.manifest.graph(role, variant)
        with self._lock:
            key = (role, variant)
            if key not in self._engines:
                self._bundle.check_graph(entry)
                opener = self._backend.llm if role == "llm" else self._backend
                self._engines[key] = opener.open(self._bundle.root, entry)
            return self._engines[key]

    def embed(self, tokens: tuple[int, ...]) -> NDArray[Any]:
        """Return the embeddings [S, D] of token ids; only these rows of the table are read."""
        return self._embeddings.rows(tokens)
