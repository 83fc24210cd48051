"""How a token is compared with what is cached of it, low where it changed: the metrics of the STC paper's figure 7.

Rows [N, W] of now and before -> [N] in float32. Nothing of the graphs is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from stc_export.spec.policy import Metric

#: Rows of now and before -> one number for each.
Similarity = Callable[[Tensor, Tensor], Tensor]


def cosine(now: Tensor, before: Tensor) -> Tensor:
    """Return the cosine of each row with the one before, 0 where that is zero.

    Written so that equal rows give exactly 1, as they do in a bundle: among them the lower index is recomputed first.
    """
    a, b = now.float(), before.float()
    lengths = ((a * a).sum(dim=-1) * (b * b).sum(dim=-1)).sqrt()
    return (a * b).sum(dim=-1) / lengths.clamp_min(1e-12)


def _dot(now: Tensor, before: Tensor) -> Tensor:
    return (now.float() * before.float()).sum(dim=-1)


def _minus_l1(now: Tensor, before: Tensor) -> Tensor:
    return -(now.float() - before.float()).norm(p=1, dim=-1)


def _minus_l2(now: Tensor, before: Tensor) -> Tensor:
    return -(now.float() - before.float()).norm(p=2, dim=-1)


METRICS: Mapping[Metric, Similarity] = {"cosine": cosine, "dot": _dot, "l1": _minus_l1, "l2": _minus_l2}
