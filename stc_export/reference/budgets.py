"""The frame budgets of a policy, written plainly: the frames that they look at are kept whole, totals are taken anew.

Nothing of :mod:`stc_runtime.budgets` is used, which keeps as little as it can. docs/method.md has the formulas. Double
precision, as there: a count is decided by these numbers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from stc_export.spec.memory import kept_tokens
from stc_export.spec.policy import Budget, PrunerPolicy

#: Shares are sums of binary fractions: three tenths ten times are 3 in spite of them.
_SLACK = 1e-9
#: What EVS gives the tokens of a first frame, and the temperature of VidCom2's softmax.
_FIRST, _TEMPERATURE = 255.0, 0.01


@dataclass(frozen=True)
class Allotment:
    """How many tokens a frame keeps, and whether later frames are compared with it."""

    count: int
    remembered: bool = True


class FrameBudget:
    """Decides on the frames of one stream."""

    def allot(self, tokens: Tensor) -> Allotment:
        """Return what the next frame gets, by default :meth:`count` and a place in the history.

        Args:
            tokens: All of its visual tokens [M, D].
        """
        return Allotment(self.count(tokens.double()))

    def count(self, tokens: Tensor) -> int:
        """Return how many of the tokens float64 [M, D] are kept."""
        raise NotImplementedError


class _Fixed(FrameBudget):
    def __init__(self, policy: PrunerPolicy) -> None:
        self._keep = policy.keep

    def count(self, tokens: Tensor) -> int:
        return kept_tokens(len(tokens), self._keep)


class _VidCom2(FrameBudget):
    """keep (1 + softmax - 1 / F) of the frame, as the last of its clip; the counts sum to the whole part of these."""

    def __init__(self, policy: PrunerPolicy) -> None:
        self._keep = policy.keep
        self._clip: deque[Tensor] = deque(maxlen=policy.history + 1)
        self._due, self._given = 0.0, 0

    def count(self, tokens: Tensor) -> int:
        self._clip.append(tokens)
        clip = torch.stack(list(self._clip))
        unique = -_cosines(clip, clip.mean(dim=(0, 1))).mean(dim=1)
        last = torch.softmax(unique / _TEMPERATURE, dim=0)[-1]
        share = self._keep * float(1 + last - 1 / len(clip)) * len(tokens)
        self._due += min(max(share, 1.0), float(len(tokens)))
        count = min(math.floor(self._due + _SLACK) - self._given, len(tokens))
        self._given += count
        return count


class _Dtd(FrameBudget):
    """What is unlike the token at its place in the frame before; all of the first frame."""

    def __init__(self, policy: PrunerPolicy) -> None:
        self._threshold = policy.threshold
        self._before: Tensor | None = None

    def count(self, tokens: Tensor) -> int:
        before, self._before = self._before, tokens
        if before is None:
            return len(tokens)
        return len(tokens) - int((_cosines(tokens, before) > self._threshold).sum())


class _Evs(FrameBudget):
    """The frame's tokens among the best max(M, keep F M) of its clip, within what EVS keeps of the stream so far."""

    def __init__(self, policy: PrunerPolicy) -> None:
        self._keep = policy.keep
        self._before: Tensor | None = None
        self._clip: deque[Tensor] = deque(maxlen=policy.history + 1)
        self._frames = self._given = 0

    def count(self, tokens: Tensor) -> int:
        first = torch.full_like(tokens[:, 0], _FIRST)
        self._clip.append(first if self._before is None else 1 - _cosines(tokens, self._before))
        self._before = tokens
        self._frames += 1
        best = torch.argsort(torch.cat(list(self._clip)), descending=True, stable=True)
        best = best[: self._total(len(self._clip), len(tokens))]
        mine = int((best >= (len(self._clip) - 1) * len(tokens)).sum())
        count = min(mine, self._total(self._frames, len(tokens)) - self._given)
        self._given += count
        return count

    def _total(self, frames: int, tokens: int) -> int:
        return max(tokens, kept_tokens(frames * tokens, self._keep))


class _DyCoke(FrameBudget):
    """The first of four frames whole, (4 keep - 1) / 3 of the others; only every second frame is compared with."""

    def __init__(self, policy: PrunerPolicy) -> None:
        self._keep = policy.keep
        self._frames = self._others = self._given = 0

    def allot(self, tokens: Tensor) -> Allotment:
        place = self._frames % 4
        self._frames += 1
        return Allotment(self.count(tokens) if place else len(tokens), remembered=place in (0, 2))

    def count(self, tokens: Tensor) -> int:
        self._others += 1
        count = math.floor(self._others * (4 * self._keep - 1) / 3 * len(tokens) + _SLACK) - self._given
        self._given += count
        return count


def _cosines(rows: Tensor, others: Tensor) -> Tensor:
    return cosine_similarity(rows, others.expand_as(rows), dim=-1)


#: Every budget of a policy -> how a stream of it starts.
BUDGETS: Mapping[Budget, Callable[[PrunerPolicy], FrameBudget]] = {
    "fixed": _Fixed,
    "vidcom2": _VidCom2,
    "dtd": _Dtd,
    "evs": _Evs,
    "dycoke": _DyCoke,
}
