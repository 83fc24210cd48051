"""Linear readings of tokens, which only training needs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from shape import DIMS
from torch.nn import functional

#: How much more than the average a class counts at most.
_MOST = 10.0


class Readings(torch.nn.Module):
    """Several classifications of one token.

    Args:
        sizes: Classes of each.
        weights: How much each class counts, a float32 tensor per classification; all the same if None.
    """

    def __init__(self, sizes: list[int], weights: list[torch.Tensor] | None = None) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(DIMS.text.width)
        self.out = torch.nn.Linear(DIMS.text.width, sum(sizes))
        self._sizes, self._weights = sizes, weights or [torch.ones(size) for size in sizes]

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return scores: float32 [..., size] for each size, from [..., D]."""
        return self.out(self.norm(hidden)).split(self._sizes, dim=-1)  # type: ignore[no-any-return]

    def losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each classification, and how many were right of how many.

        Args:
            hidden: float32 [N, D].
            targets: int64 [N, C]; negative where nothing can be said.

        Returns:
            float32 [C] and float32 [C, 2], in which each token counts as much as its class.
        """
        losses, counts = [], []
        for scores, target, weights in zip(self(hidden), targets.unbind(-1), self._weights, strict=True):
            known = target >= 0
            weight = weights[target[known]]
            loss = functional.cross_entropy(scores[known], target[known], reduction="none")
            losses.append((loss * weight).sum() / max(len(weight), 1))
            counts.append(torch.stack([((scores[known].argmax(-1) == target[known]) * weight).sum(), weight.sum()]))
        return torch.stack(losses), torch.stack(counts)


def class_weights(targets: npt.NDArray[np.signedinteger], sizes: list[int]) -> list[torch.Tensor]:
    """Return weights that make rare classes count as much as others, within reason, and 1 for the average target.

    Args:
        targets: int [N, C]; negative where nothing can be said.
        sizes: Classes of each of the C classifications.
    """
    weights = []
    for column, size in zip(targets.T, sizes, strict=True):
        counts = np.bincount(column[column >= 0], minlength=size)
        weight = np.minimum(counts.sum() / np.maximum(counts, 1) / size, _MOST)
        weight /= (weight * counts).sum() / counts.sum()
        weights.append(torch.tensor(weight, dtype=torch.float32))
    return weights
