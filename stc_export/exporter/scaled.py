"""A checkpoint in which scales of AWQ are folded: other weights, the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.exporter.checkpoint import Checkpoint

Factors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ScaledCheckpoint(Checkpoint):
    """A checkpoint of which some tensors are read multiplied, in float32.

    Attributes:
        rows: Canonical tensor name -> factor of each row [out]; of a vector, of each value.
        columns: Canonical tensor name -> factor of each column [in].
    """

    rows: Factors = field(default_factory=dict)
    columns: Factors = field(default_factory=dict)

    @property
    def changes(self) -> str:
        """Digest of all factors."""
        digest = hashlib.sha256()
        for kind, factors in (("rows", self.rows), ("columns", self.columns)):
            for name in sorted(factors):
                digest.update(f"{kind} {name}\n".encode())
                digest.update(factors[name].tobytes())
        return digest.hexdigest()

    def read(self, name: str) -> Any:
        """Read one tensor (see :meth:`Checkpoint.read`).

        Raises:
            CheckpointError: Missing tensor or unreadable file.
        """
        return self._scaled(name, super().read(name), 0)

    def read_blocks(self, name: str, block_bytes: int) -> Iterator[Any]:
        """Read one tensor in blocks of rows (see :meth:`Checkpoint.read_blocks`).

        Raises:
            CheckpointError: Missing tensor or unreadable file.
        """
        first = 0
        for block in super().read_blocks(name, block_bytes):
            yield self._scaled(name, block, first)
            first += len(block)

    def _scaled(self, name: str, block: Any, first: int) -> Any:
        """Return rows of a tensor, the first of them with the given number, multiplied."""
        import torch

        rows, columns = self.rows.get(name), self.columns.get(name)
        if rows is not None:
            own = torch.from_numpy(rows[first : first + len(block)])
            block = block.float() * own.reshape(-1, *(1,) * (block.ndim - 1))
        return block if columns is None else block.float() * torch.from_numpy(columns)
