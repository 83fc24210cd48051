"""The pruning method that ranks by attention, as a module."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stc_export.pruners import ATTENTION_PRUNERS, PRUNERS, pruner_method
from stc_export.spec.manifest import BUILD_FLAGS
from tests.reference.pruners import lowest


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 40))
def test_highest_attention_stays_and_of_equal_ones_the_lower_index(levels, count):
    keep = min(count, len(levels))
    attention = np.array(levels, np.float32) / 8
    tokens = torch.arange(len(levels) * 3, dtype=torch.float16).reshape(-1, 3)
    module = pruner_method("visionzip").factory(None)
    kept_tokens, kept = module(tokens, torch.from_numpy(attention), torch.zeros(keep, dtype=torch.int64))
    expected = lowest(-attention, keep)
    np.testing.assert_array_equal(kept.numpy(), expected)
    assert torch.equal(kept_tokens, tokens[torch.from_numpy(expected)])


@pytest.mark.parametrize("method", ATTENTION_PRUNERS, ids=lambda method: method.name)
def test_method_that_needs_attention_has_a_flag_and_is_not_built_without(method):
    assert "attention" in method.inputs
    assert BUILD_FLAGS["pruner"][method.name] == "--attention"
    assert not any("attention" in other.inputs for other in PRUNERS)
