"""The pruning method that ranks by attention and merges what is left, as a module, against the formula."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stc_export.pruners import ATTENTION_PRUNERS, PRUNERS, pruner_method
from stc_export.spec.manifest import BUILD_FLAGS
from tests.reference.pruners import visionzip


def run(tokens, attention, keys, keep):
    module = pruner_method("visionzip").factory(None)
    arrays = (tokens, attention.astype(np.float32), keys.astype(np.float32), np.zeros(keep, np.int64))
    return [x.numpy() for x in module(*map(torch.from_numpy, arrays))]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 99))
def test_any_frame_is_what_the_formula_says_and_of_equal_attention_the_lower_index_stays(levels, count, seed):
    keep, draws = min(count, len(levels)), np.random.default_rng(seed)
    attention = np.array(levels) / 8
    tokens, keys = draws.normal(size=(len(levels), 3)).astype(np.float32), draws.normal(size=(len(levels), 5))
    found, kept = run(tokens, attention, keys, keep)
    expected, indices = visionzip(tokens, attention, keys, keep)
    np.testing.assert_array_equal(kept, indices)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_published_shares_come_out_of_the_published_totals():
    """With constant attention the first are dominant, and what is left gives targets at even distances."""
    for total, dominant, contextual in ((64, 54, 10), (128, 108, 20), (192, 162, 30)):
        tokens = np.zeros((576, 1), np.float32)
        _, kept = run(tokens, np.zeros(576), np.ones((576, 2)), total)
        step = (576 - dominant) // contextual
        assert kept.tolist() == [*range(dominant), *(dominant + step * n for n in range(contextual))]


def test_target_gets_the_mean_of_the_likest_and_equal_likeness_goes_to_the_first_target():
    # K = 12 of 16: two contextual, ten dominant (0 to 9). Of 10 to 15 each third is a target: 10 and 13.
    tokens = np.arange(16, dtype=np.float32)[:, None]
    keys = np.zeros((16, 2))
    keys[10], keys[13] = (1, 0), (0, 1)
    keys[11], keys[12], keys[14], keys[15] = (0, 2), (1, 1), (3, 0.1), (0, 0)
    found, kept = run(tokens, np.arange(16)[::-1], keys, 12)
    assert kept.tolist() == [*range(11), 13]
    np.testing.assert_allclose(found[:, 0], [*range(10), 10 + (12 + 14 + 15) / 3, 13 + 11], rtol=1e-6)


@pytest.mark.parametrize("keep", [1, 3])
def test_so_few_tokens_that_none_is_contextual_are_as_they_were(keep):
    draws = np.random.default_rng(0)
    tokens = draws.normal(size=(9, 4)).astype(np.float16)
    attention = draws.permutation(9)
    found, kept = run(tokens, attention, draws.normal(size=(9, 2)), keep)
    np.testing.assert_array_equal(kept, np.sort(np.argsort(-attention)[:keep]))
    np.testing.assert_array_equal(found, tokens[kept])


@pytest.mark.parametrize("total", [1, 4, 9, 196])
def test_all_tokens_are_as_they_were(total):
    draws = np.random.default_rng(1)
    tokens = draws.normal(size=(total, 4)).astype(np.float16)
    found, kept = run(tokens, draws.random(total), draws.normal(size=(total, 2)), total)
    np.testing.assert_array_equal(kept, np.arange(total))
    np.testing.assert_array_equal(found, tokens)


@pytest.mark.parametrize("method", ATTENTION_PRUNERS, ids=lambda method: method.name)
def test_method_that_needs_attention_has_a_flag_and_is_not_built_without(method):
    assert "attention" in method.inputs
    assert BUILD_FLAGS["pruner"][method.name] == "--attention"
    assert not any("attention" in other.inputs for other in PRUNERS)
