"""What numbers flow into a layer, and the scale that rounds them with the least error.

Absolute values are counted in bins that grow by the same factor, so that what several passes saw can be added up
without having seen it all before. numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import UsageError

#: Bins per factor of two, and the powers of two that they reach from and to: those of float16 and more.
_PER_OCTAVE, _LOWEST, _HIGHEST = 32, -30, 130
_BINS = (_HIGHEST - _LOWEST) * _PER_OCTAVE


class Range:
    """Counts the absolute values of one tensor over many passes."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._passes = 0
        self.largest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in the values of a pass, which are finite."""
        sizes = np.abs(values[values != 0]).astype(np.float64)
        places = ((np.log2(sizes) - _LOWEST) * _PER_OCTAVE).astype(np.int64)
        self._counts += np.bincount(np.clip(places, 0, _BINS - 1), minlength=_BINS)
        self.largest = max(self.largest, float(sizes.max(initial=0.0)))
        self._passes += 1

    def clip(self, most: int) -> float:
        """Return the value that becomes the largest code ``most``: larger ones are cut off, smaller ones rounded.

        Of all bins it is the upper end of the one with the least sum of squared errors: a cut value is off by what it
        is above, a rounded one by up to half a step, which is a twelfth of its square on average. 1 for zeros alone.
        """
        if self.largest == 0:
            return 1.0
        first, last = np.flatnonzero(self._counts)[[0, -1]]
        counts = self._counts[first : last + 1].astype(np.float64)
        edges = 2.0 ** ((np.arange(first, last + 1) + 1) / _PER_OCTAVE + _LOWEST)
        middles = edges * 2.0 ** (-0.5 / _PER_OCTAVE)
        ends = np.minimum(edges, self.largest)
        errors = [_error(middles, counts, end, most) for end in ends]
        return float(ends[int(np.argmin(errors))])


def _error(values: NDArray[np.float64], counts: NDArray[np.float64], end: float, most: int) -> float:
    cut = np.maximum(values - end, 0.0)
    step = end / most
    # What is below half a step becomes 0, and is off by itself.
    rounded = np.where(values < step / 2, values**2, step**2 / 12)
    return float(counts @ np.where(cut > 0, cut**2, rounded))


class Ranges(Mapping[str, Range]):
    """The ranges of the inputs of all layers."""

    def __init__(self) -> None:
        self._ranges: dict[str, Range] = {}

    def __getitem__(self, layer: str) -> Range:
        """Return the range of a layer's input."""
        return self._ranges[layer]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the layers."""
        return iter(self._ranges)

    def __len__(self) -> int:
        """Return how many layers were seen."""
        return len(self._ranges)

    def add(self, layer: str, values: NDArray[np.float32]) -> None:
        """Take in what flowed into a layer.

        Raises:
            UsageError: It holds NaN or infinity.
        """
        if not np.isfinite(values).all():
            bad = int(np.count_nonzero(~np.isfinite(values)))
            raise UsageError(
                f"The input of {layer} holds NaN or infinity in {bad:,} of {values.size:,} values, expected numbers.",
                "Build with fp32 for all else, e.g. --precision fp32,vit=int8; if it stays, the checkpoint is damaged.",
            )
        self._ranges.setdefault(layer, Range()).add(values)
