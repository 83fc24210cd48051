"""A checkpoint with the weights that a bundle holds of it: the reference that kernels over rounded weights are held to.

What rounding itself costs is another number, which is recorded (:mod:`stc_export.spec.calibration`) and not part of the
parity check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stc_calib.rounding import restore_weights, round_weights
from stc_export.exporter.checkpoint import Checkpoint
from stc_export.exporter.weights import WeightRecipe


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
        """Read one tensor (see :meth:`Checkpoint.read`); a rounded one is restored to float32.

        Raises:
            CheckpointError: Missing tensor or unreadable file.
        """
        import torch

        tensor, recipe = self.original.read(name), self.recipes.get(name)
        if recipe is None or recipe.scheme is None:
            return tensor
        return torch.from_numpy(restore_weights(round_weights(tensor.float().numpy(), recipe.scheme, recipe.dtype)))


def rounded_checkpoint(checkpoint: Checkpoint, recipes: Iterable[WeightRecipe]) -> Checkpoint:
    """Return a checkpoint as recipes round it."""
    rounded = {name: recipe for recipe in recipes if recipe.scheme is not None for name in recipe.sources}
    return RoundedCheckpoint(checkpoint.directory, checkpoint.config, checkpoint.tensors, checkpoint, rounded)
