"""PyramidDrop (arXiv 2410.17247): fewer visual tokens in each of four stages of the LLM."""

from __future__ import annotations

import torch

from stc_export.reference.inside import Reduced, View, attention_weights, keep_rows, staged_shares


class PDrop:
    """Keeps what the prompt's last token attends to by the projections of the layer that follows.

    Stages begin at layers L / 4, L / 2 and 3 L / 4 (8, 16 and 24 of 32, as published), rounded down, and keep 1, r, r^2
    and r^3 of the tokens. r is 0.5 as published, which is a mean of 0.47; here it follows from ``keep``. The released
    code numbers positions anew after each drop; here tokens keep theirs.
    """

    def shares(self, layers: int, keep: float) -> tuple[float, ...]:
        """Return 1, r, r^2 and r^3 by stages.

        Raises:
            PolicyError: The first stage is more than ``keep`` already.
        """
        bounds = [max(1, layers * quarter // 4) for quarter in (1, 2, 3)]
        return staged_shares("pdrop", bounds, layers, keep)

    def reduce(self, view: View, count: int) -> Reduced:
        """Return the ``count`` visual tokens that the following layer would attend to most."""
        last = torch.tensor([len(view.now) - 1], device=view.now.device)
        scores = attention_weights(view, view.following, view.now, last)[0]
        return keep_rows(view, scores[view.visual], count)
