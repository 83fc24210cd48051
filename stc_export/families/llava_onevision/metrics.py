"""How a token is compared with what is cached of it: low means that it changed.

The four selectors of the STC paper's figure 7 (arXiv 2512.00891), which finds the cosine the best. Sums of products are
written as such, not as MatMul, because backends may run a float32 MatMul in TF32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stc_export.spec.policy import Metric

#: Keeps a quotient finite.
EPS = 1e-12

#: Rows [N, W] float32 of now and before -> [N] float32, low where a row changed.
Similarity = Callable[[Any, Any], Any]


def cosine(a: Any, b: Any) -> Any:
    """Cosine of the rows of two [N, W] float32 tensors, [N]; 0 where one of them is zero."""
    return dot(a, b) / (((a * a).sum(-1) * (b * b).sum(-1)).sqrt() + EPS)


def dot(a: Any, b: Any) -> Any:
    """Product of the rows of two [N, W] float32 tensors, [N]; low for short rows too, not for changed ones alone."""
    return (a * b).sum(-1)


def minus_l1(a: Any, b: Any) -> Any:
    """Negative sum of absolute differences of the rows of two [N, W] float32 tensors, [N]."""
    return -(a - b).abs().sum(-1)


def minus_l2(a: Any, b: Any) -> Any:
    """Negative Euclidean distance of the rows of two [N, W] float32 tensors, [N]."""
    difference = a - b
    return -(difference * difference).sum(-1).sqrt()


METRICS: Mapping[Metric, Similarity] = {"cosine": cosine, "l1": minus_l1, "l2": minus_l2, "dot": dot}
