"""The pruning methods of a bundle, written plainly: one frame after the other, state in lists.

Nothing of :mod:`stc_export.pruners` is used, whose modules become graphs. docs/method.md has the formulas.
A frame is pruned by ``choose``, and then enters what later frames are compared with by ``remember``, if it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from stc_export.reference.vision import LastLayer
from stc_export.spec.policy import PrunerPolicy

#: Doubled squares of the widths of the Gaussian kernels.
_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class VisualFrame:
    """What pruning knows of a frame.

    Attributes:
        tokens: Visual tokens [M, D].
        last_layer: Of the vision transformer, pooled as they are: attention float32 [M], keys [M, d]. ``None`` where
            nothing tells.
    """

    tokens: Tensor
    last_layer: LastLayer | None = None


@dataclass(frozen=True, eq=False)
class Kept:
    """What is left of a frame: tokens [K, D] and their places int64 [K], ascending."""

    tokens: Tensor
    indices: Tensor


class Pruner:
    """A method over the frames of one stream."""

    def choose(self, frame: VisualFrame, keep: int) -> Kept:
        """Return the ``keep`` tokens that stay of the next frame: by default those that :meth:`indices` names."""
        indices = self.indices(frame.tokens, keep)
        return Kept(frame.tokens[indices], indices)

    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        """Return the indices int64 [K] of the kept tokens of [M, D], ascending."""
        raise NotImplementedError

    def remember(self, tokens: Tensor) -> None:
        """Let later frames be compared with the tokens [M, D] of this one; by default they are compared with none."""


def lowest(scores: Tensor, keep: int) -> Tensor:
    """Return the indices of the ``keep`` lowest scores, ascending; of equal scores the lower index is kept."""
    return torch.argsort(scores, stable=True)[:keep].sort().values


def _cosine(rows: Tensor, other: Tensor) -> Tensor:
    return cosine_similarity(rows, other.expand_as(rows), dim=-1)


class _All(Pruner):
    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        del keep
        return torch.arange(len(tokens), device=tokens.device)


class _Random(Pruner):
    def __init__(self, seed: int) -> None:
        self._draws = np.random.Generator(np.random.PCG64(seed))

    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        noise = self._draws.random(len(tokens), dtype=np.float32)
        return lowest(torch.from_numpy(noise), keep).to(tokens.device)


class _Stride(Pruner):
    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        places = [(2 * j + 1) * len(tokens) // (2 * keep) for j in range(keep)]
        return torch.tensor(places, dtype=torch.int64, device=tokens.device)


class _DualAnchor(Pruner):
    def __init__(self, window: int, alpha: float) -> None:
        self._history: deque[Tensor] = deque(maxlen=window)
        self._alpha = alpha

    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        spatial = z.mean(dim=0)
        novelty = (1 - self._alpha) * (1 - _cosine(z, spatial))
        if self._history:
            novelty = novelty + self._alpha * (1 - _cosine(z, torch.stack(list(self._history)).mean(dim=0)))
        return lowest(-novelty, keep)

    def remember(self, tokens: Tensor) -> None:
        self._history.append(tokens.float().mean(dim=0))


class _Gaussian(Pruner):
    def __init__(self) -> None:
        self._entries: list[Tensor] = []

    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        x = _selected(tokens)
        entries = torch.stack([*self._entries, x.mean(dim=0)])
        memory = normalize(entries.double().mean(dim=0).float(), dim=0)
        x = normalize(x, dim=-1)
        return lowest(_kernels(x, memory) + _kernels(x, x.mean(dim=0)), keep)

    def remember(self, tokens: Tensor) -> None:
        self._entries.append(_selected(tokens).mean(dim=0))


def _selected(tokens: Tensor) -> Tensor:
    """The half of the channels with the lowest variance, in its order."""
    x = tokens.float()
    order = torch.argsort(x.var(dim=0, correction=0), stable=True)
    return x[:, order[: int(x.shape[1] * 0.5)]]


def _kernels(rows: Tensor, centre: Tensor) -> Tensor:
    squared = ((rows - centre) ** 2).sum(dim=1)
    return torch.stack([torch.exp(-squared / (2 * width)) for width in _WIDTHS]).sum(dim=0)


class _VidCom2(Pruner):
    def __init__(self, window: int) -> None:
        self._earlier: deque[Tensor] = deque(maxlen=window)

    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        video = torch.stack([*self._earlier, z.mean(dim=0)]).mean(dim=0)
        return lowest(_cosine(z, video) + _cosine(z, z.mean(dim=0)), keep)

    def remember(self, tokens: Tensor) -> None:
        self._earlier.append(tokens.float().mean(dim=0))


class _VCast(Pruner):
    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        norms = z.norm(dim=1)
        spread = (norms - norms.min()) / (norms.max() - norms.min() + 1e-6)
        return lowest(-(1 - _cosine(z, z.mean(dim=0)) + spread), keep)


class _Evs(Pruner):
    def __init__(self) -> None:
        self._previous: Tensor | None = None

    def indices(self, tokens: Tensor, keep: int) -> Tensor:
        z = tokens.float()
        scores = torch.zeros(len(z), device=z.device) if self._previous is None else _cosine(z, self._previous)
        return lowest(scores, keep)

    def remember(self, tokens: Tensor) -> None:
        self._previous = tokens.float()


class _VisionZip(Pruner):
    def choose(self, frame: VisualFrame, keep: int) -> Kept:
        if frame.last_layer is None:
            raise ValueError("visionzip needs what the last layer of the vision transformer tells")
        contextual = (5 * keep + 16) // 32  # 10 of 64, rounded to the nearest
        order = torch.argsort(frame.last_layer.attention, descending=True, stable=True)
        dominant, rest = order[: keep - contextual], order[keep - contextual :].sort().values
        targets = rest[:: max(1, len(rest) // max(1, contextual))][:contextual]
        tokens = frame.tokens.clone()
        for target, joined in zip(targets, _joined(frame.last_layer.keys, rest, targets), strict=True):
            if len(joined):
                tokens[target] += frame.tokens[joined].mean(dim=0)
        indices = torch.cat([dominant, targets]).sort().values
        return Kept(tokens[indices], indices)


def _joined(keys: Tensor, rest: Tensor, targets: Tensor) -> list[Tensor]:
    """Of each target the tokens of ``rest`` that are no target and whose keys are most similar to the target's."""
    if not len(targets):
        return []
    others = rest[~torch.isin(rest, targets)]
    unit = normalize(keys.float(), dim=-1)
    likest = (unit[others] @ unit[targets].T).argmax(dim=1)
    return [others[likest == number] for number in range(len(targets))]


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
    "visionzip": lambda _: _VisionZip(),
}
