"""No pruning: every visual token of a frame reaches the LLM."""

from __future__ import annotations

import torch


class KeepAll(torch.nn.Module):
    """Keeps all tokens. It has no history and nothing to choose, so it takes neither history nor alpha nor carrier."""

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all tokens.

        Args:
            tokens: [M, D], projected and pooled.

        Returns:
            The same tokens [M, D], and their indices 0 to M - 1, int64 [M].
        """
        return tokens, torch.arange(tokens.shape[0], dtype=torch.int64, device=tokens.device)
