"""A checkpoint with the weights that a bundle holds of it: the reference that kernels over rounded weights are held to.

What rounding itself costs is another number, which is recorded (:mod:`stc_export.spec.calibration`) and not part of the
parity check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stc_calib.rounding import restore_weights, round_weights
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.weights import WeightRecipe

#: A tensor is rounded in blocks of rows of about this size (as float32).
_BLOCK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class RoundedCheckpoint(Checkpoint):
    """A checkpoint of which some tensors are read as rounded.

    Attributes:
        original: The checkpoint before that.
        recipes: Canonical tensor name -> recipe that rounds it.
    """

    original: Checkpoint
    recipes: Mapping[str, WeightRecipe]

    def read(self, name: str) -> Any:
        """Read one tensor (see :meth:`Checkpoint.read`); a rounded one is restored, by blocks, to float32.

        Raises:
            CheckpointError: Missing tensor or unreadable file.
        """
        import torch

        recipe = self.recipes.get(name)
        if recipe is None or recipe.scheme is None:
            return self.original.read(name)
        restored = np.empty(self.info(name).shape, np.float32)
        first = 0
        for block in self.original.read_blocks(name, _BLOCK_BYTES):
            rounded = round_weights(block.float().numpy(), recipe.scheme, recipe.dtype)
            restored[first : first + len(block)] = restore_weights(rounded)
            first += len(block)
        return torch.from_numpy(restored)


def rounded_checkpoint(checkpoint: Checkpoint, recipes: Iterable[WeightRecipe]) -> Checkpoint:
    """Return a checkpoint as recipes round it."""
    rounded = {name: recipe for recipe in recipes if recipe.scheme is not None for name in recipe.sources}
    return RoundedCheckpoint(checkpoint.directory, checkpoint.config, checkpoint.tensors, checkpoint, rounded)
