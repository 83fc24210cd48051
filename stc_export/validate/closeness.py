"""How close what a compressed stream computes is to what the uncompressed one does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_runtime.dtypes import widened

#: Digits that are kept: far below any difference that means something.
_DIGITS = 6


def cosine(found: NDArray[Any], dense: NDArray[Any]) -> float:
    """Return the mean cosine of the rows of two arrays [N, W]; 0 for a row where one of them is zero."""
    a, b = _numbers(found), _numbers(dense)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("nw,nw->n", a, b)
    cosines = np.divide(products, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return round(float(cosines.mean()), _DIGITS)


def relative_error(found: NDArray[Any], dense: NDArray[Any]) -> float:
    """Return |found - dense| / |dense| of two whole arrays; 1 where only ``dense`` is zero, 0 where both are."""
    a, b = _numbers(found), _numbers(dense)
    difference, length = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    return round(difference / (length or difference), _DIGITS) if difference else 0.0


def _numbers(carried: NDArray[Any]) -> NDArray[np.float64]:
    """Return what an array of a session says; tokens of a bf16 bundle come as uint16."""
    return widened(carried).astype(np.float64)


def divergence(dense: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the Kullback-Leibler divergence of two distributions from their logits [V], KL(dense || found) in nats."""
    log_p, log_q = _log_softmax(dense), _log_softmax(found)
    nats = float(np.sum(np.exp(log_p) * (log_p - log_q)))
    return round(max(nats, 0.0), _DIGITS)  # rounding can take it below 0, which it never is


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    return shifted - float(np.log(np.sum(np.exp(shifted))))
