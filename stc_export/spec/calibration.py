"""What rounding weights to few bits cost: ``calib/record.json`` of a bundle, schema ``stc.calib/1``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorError:
    """What rounding did to one weight.

    Attributes:
        name: Its name in the weight file.
        relative_error: Norm of (rounded - original) relative to the norm of the original (Frobenius).
    """

    name: str
    relative_error: float
