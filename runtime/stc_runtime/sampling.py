"""Choice of the next token from the logits of the last position."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stc_export.spec.errors import ParityError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Tokens that usually hold the nucleus.
_FEW = 1024


def greedy(logits: NDArray[np.floating]) -> int:
    """Return the token with the highest logit; among equals the one with the lower id.

    Args:
        logits: Logits of one position [V].

    Raises:
        ParityError: A logit is NaN or infinite.
    """
    _check_finite(logits)
    return int(np.argmax(logits))


class TopP:
    """Nucleus sampling: draws from the smallest set of likeliest tokens that holds the share ``top_p``.

    Each instance owns its random generator: the same seed and logits give the same tokens.
    """

    def __init__(self, top_p: float, temperature: float, seed: int) -> None:
        """Check the settings and seed the generator.

        Args:
            top_p: Share of probability that is sampled from. In (0, 1].
            temperature: Divides the logits. Above 0.
            seed: Seed of the generator. At least 0.

        Raises:
            UsageError: A value outside its range.
        """
        if not 0.0 < top_p <= 1.0:
            raise UsageError(
                f"top_p is {top_p:g}, expected a number above 0 and at most 1.", "Choose one in that range, e.g. 0.9."
            )
        if not (temperature > 0.0 and math.isfinite(temperature)):
            raise UsageError(
                f"temperature is {temperature:g}, expected a finite number above 0.",
                "Choose one in that range, e.g. 0.7.",
            )
        if seed < 0:
            raise UsageError(f"seed is {seed}, expected a whole number from 0.", "Choose one in that range.")
        self._top_p = top_p
        self._temperature = temperature
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: NDArray[np.floating]) -> int:
        """Draw a token.

        Args:
            logits: Logits of one position [V].

        Raises:
            ParityError: A logit is NaN or infinite.
        """
        _check_finite(logits)
        wide = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, which is right
            weights = np.exp((wide - wide.max()) / self._temperature)
        share = self._top_p * weights.sum()
        likely = _likeliest(weights, share)
        order = likely[np.argsort(-weights[likely], kind="stable")]
        cumulative = np.cumsum(weights[order])
        # The token that crosses top_p belongs to the nucleus, so the nucleus is never empty.
        last = min(int(np.searchsorted(cumulative, share, side="left")), order.size - 1)
        drawn = np.searchsorted(cumulative[:last], self._random.random() * cumulative[last], side="right")
        return int(order[drawn])


def _likeliest(weights: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """Return ascending ids that contain the nucleus: a few tokens where they suffice, for sorting all takes long."""
    if weights.size > _FEW:
        few = np.flatnonzero(weights >= np.partition(weights, -_FEW)[-_FEW])
        if weights[few].sum() >= share:
            return few
    return np.arange(weights.size)


def _check_finite(logits: NDArray[np.floating]) -> None:
    if not np.isfinite(logits).all():
        raise ParityError(
            "The model's logits are not finite: its numbers overflow in this precision.",
            "Build the bundle with --precision fp32, and run stc-export inspect on it to see the parity of its graphs.",
        )
