"""FastV (arXiv 2403.06764): after the first layers only what the end of the prompt attends to stays."""

from __future__ import annotations

import torch

from stc_export.reference.inside import Reduced, View, attention_weights, check_least, keep_rows

#: The published K = 2 is one of 16 layers of the model that it was published with.
_LAYERS_PER_FULL = 16


class FastV:
    """Keeps all visual tokens in the first k layers, then the most attended ones.

    The score is the attention of the prompt's last token in the layer that has just run, the mean over its heads.
    k is 2 of 32 layers, in proportion: ``max(1, round(L / 16))``.
    """

    def shares(self, layers: int, keep: float) -> tuple[float, ...]:
        """Return 1 for k layers, then (keep L - k) / (L - k).

        Raises:
            PolicyError: k of L layers are more than ``keep`` already.
        """
        full = max(1, round(layers / _LAYERS_PER_FULL))
        check_least("fastv", full / layers, keep)
        rest = (keep * layers - full) / max(1, layers - full)
        return (1.0,) * full + (rest,) * (layers - full)

    def reduce(self, view: View, count: int) -> Reduced:
        """Return the ``count`` most attended visual tokens."""
        last = torch.tensor([len(view.before) - 1], device=view.before.device)
        scores = attention_weights(view, view.layer, view.before, last)[0]
        return keep_rows(view, scores[view.visual], count)
