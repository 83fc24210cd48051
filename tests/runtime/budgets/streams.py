"""Streams of visual tokens in which little, much or nothing changes from frame to frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
from numpy.typing import NDArray

from stc_export.spec.policy import Budget, PrunerPolicy
from stc_runtime.budgets import BUDGETS, FrameBudget, FrameSize

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """Frames of M tokens of width D, and the share of tokens that is new in each."""

    tokens: int
    width: int
    new: tuple[float, ...]
    seed: int

    def frames(self) -> Iterator[Array]:
        """The frames [M, D] float32: what is not new differs from the frame before by a hundredth."""
        rng = np.random.default_rng(self.seed)
        scene = rng.normal(size=(self.tokens, self.width))
        for share in self.new:
            scene = scene + 0.01 * rng.normal(size=scene.shape)
            places = rng.random(self.tokens) < share
            scene[places] = rng.normal(size=(int(places.sum()), self.width)) + rng.normal(size=self.width)
            yield scene.astype(np.float32)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    shares: Sequence[float] = draw(
        st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=24)
    )
    return Stream(draw(st.integers(1, 12)), draw(st.integers(2, 6)), tuple(shares), draw(st.integers(0, 2**16)))


def budget_for(stream: Stream, policy: PrunerPolicy, dtype: str = "float32") -> FrameBudget:
    name: Budget = policy.budget
    return BUDGETS[name](FrameSize(stream.tokens, stream.width, np.dtype(dtype)), policy)
