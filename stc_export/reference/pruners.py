"""The pruning methods of a bundle, written plainly: one frame after the other, state in lists.

Nothing of :mod:`stc_export.pruners` is used, whose modules become graphs. docs/method.md has the formulas.
``step(tokens, keep)`` takes the visual tokens [M, D] of the next frame and returns the kept indices, ascending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from stc_export.spec.policy import PrunerPolicy

#: Doubled squares of the widths of the Gaussian kernels.
_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


class Pruner(Protocol):
    """A method over the frames of one stream."""

    def step(self, tokens: Tensor, keep: int) -> Tensor:
        """Return the indices int64 [K] of the kept tokens of [M, D], ascending."""
        ...


def lowest(scores: Tensor, keep: int) -> Tensor:
    """Return the indices of the ``keep`` lowest scores, ascending; of equal scores the lower index is kept."""
    return torch.argsort(scores, stable=True)[:keep].sort().values


def _cosine(rows: Tensor, other: Tensor) -> Tensor:
    return cosine_similarity(rows, other.expand_as(rows), dim=-1)


class _All:
    def step(self, tokens: Tensor, keep: int) -> Tensor:
        del keep
        return torch.arange(len(tokens), device=tokens.device)


class _Random:
    def __init__(self, seed: int) -> None:
        self._draws = np.random.Generator(np.random.PCG64(seed))

    def step(self, tokens: Tensor, keep: int) -> Tensor:
        noise = self._draws.random(len(tokens), dtype=np.float32)
        return lowest(torch.from_numpy(noise), keep).to(tokens.device)


class _Stride:
    def step(self, tokens: Tensor, keep: int) -> Tensor:
        return torch.tensor([(2 * j + 1) * len(tokens) // (2 * keep) for j in range(keep)], device=tokens.device)


class _DualAnchor:
    def __init__(self, window: int, alpha: float) -> None:
        self._history: deque[Tensor] = deque(maxlen=window)
        self._alpha = alpha

    def step(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        spatial = z.mean(dim=0)
        novelty = (1 - self._alpha) * (1 - _cosine(z, spatial))
        if self._history:
            novelty = novelty + self._alpha * (1 - _cosine(z, torch.stack(list(self._history)).mean(dim=0)))
        self._history.append(spatial)
        return lowest(-novelty, keep)


class _Gaussian:
    def __init__(self) -> None:
        self._entries: list[Tensor] = []

    def step(self, tokens: Tensor, keep: int) -> Tensor:
        x = tokens.float()
        order = torch.argsort(x.var(dim=0, correction=0), stable=True)
        x = x[:, order[: int(x.shape[1] * 0.5)]]
        self._entries.append(x.mean(dim=0))
        memory = normalize(torch.stack(self._entries).double().mean(dim=0).float(), dim=0)
        x = normalize(x, dim=-1)
        return lowest(_kernels(x, memory) + _kernels(x, x.mean(dim=0)), keep)


def _kernels(rows: Tensor, centre: Tensor) -> Tensor:
    squared = ((rows - centre) ** 2).sum(dim=1)
    return torch.stack([torch.exp(-squared / (2 * width)) for width in _WIDTHS]).sum(dim=0)


class _VidCom2:
    def __init__(self, window: int) -> None:
        self._clip: deque[Tensor] = deque(maxlen=window + 1)

    def step(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        self._clip.append(z.mean(dim=0))
        video = torch.stack(list(self._clip)).mean(dim=0)
        return lowest(_cosine(z, video) + _cosine(z, z.mean(dim=0)), keep)


class _VCast:
    def step(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        norms = z.norm(dim=1)
        spread = (norms - norms.min()) / (norms.max() - norms.min() + 1e-6)
        return lowest(-(1 - _cosine(z, z.mean(dim=0)) + spread), keep)


class _Evs:
    def __init__(self) -> None:
        self._previous: Tensor | None = None

    def step(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        scores = torch.zeros(len(z), device=z.device) if self._previous is None else _cosine(z, self._previous)
        self._previous = z
        return lowest(scores, keep)


#: Method -> how a stream of it starts. A bundle's method that is missing here has no reference.
PRUNERS: Mapping[str, Callable[[PrunerPolicy], Pruner]] = {
    "none": lambda _: _All(),
    "random": lambda policy: _Random(policy.seed),
    "stride": lambda _: _Stride(),
    "stc_dual_anchor": lambda policy: _DualAnchor(policy.history, policy.alpha),
    "stc_gaussian": lambda _: _Gaussian(),
    "vidcom2": lambda policy: _VidCom2(policy.history),
    "vcast": lambda _: _VCast(),
    "evs": lambda _: _Evs(),
}
