"""The plain budgets of the reference against the ones of the test suite, which sum fractions token by token."""

from __future__ import annotations

from typing import get_args

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from stc_export.reference.budgets import BUDGETS
from stc_export.spec.memory import BUDGET_COSTS
from stc_export.spec.policy import Budget, PrunerPolicy
from tests.reference.budgets import BUDGETS as REFERENCES
from tests.runtime.budgets.streams import Stream, streams


@pytest.mark.parametrize("name", get_args(Budget))
@settings(max_examples=30)
@given(streams(), st.floats(0.25, 1), st.integers(1, 8), st.floats(0, 1))
def test_counts_of_any_stream_equal_the_plain_ones(
    name: Budget, stream: Stream, keep: float, window: int, threshold: float
) -> None:
    policy = PrunerPolicy(keep=keep, history=window, budget=name, threshold=threshold)
    budget, plain = BUDGETS[name](policy), REFERENCES[name](keep, window, threshold)
    found = []
    for frame in stream.frames():
        found.append(budget.allot(torch.from_numpy(frame)).count)
        assert found[-1] == plain.count(frame)
    assert min(found) >= 0
    assert max(found) <= BUDGET_COSTS[name].most(stream.tokens, policy)


def test_dycoke_remembers_the_frames_that_its_pairs_begin_with() -> None:
    budget = BUDGETS["dycoke"](PrunerPolicy(keep=0.5, budget="dycoke"))
    remembered = [budget.allot(torch.ones(6, 4)).remembered for _ in range(8)]
    assert remembered == [True, False, True, False] * 2
