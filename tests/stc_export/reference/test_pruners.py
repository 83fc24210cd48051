"""The plain pruners of the reference against the ones of the test suite, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stc_export.pruners import ATTENTION_PRUNERS
from stc_export.pruners import PRUNERS as EXPORTED
from stc_export.reference.pruners import PRUNERS, VisualFrame, lowest
from stc_export.reference.vision import LastLayer
from stc_export.spec.policy import PrunerPolicy
from tests.reference.pruners import REFERENCES, visionzip

FRAMES, TOKENS, WIDTH, WINDOW, ALPHA = 6, 20, 16, 3, 0.3
#: A token whose score is this close to the border may fall on either side in float32.
NEAR = 1e-4


def a_stream() -> np.ndarray:
    """Frames that change slowly, as those of a video do."""
    draws = np.random.default_rng(5)
    steps = draws.normal(size=(FRAMES, TOKENS, WIDTH)) * np.linspace(0.1, 1.0, TOKENS)[:, None]
    return (draws.normal(size=(TOKENS, WIDTH)) + steps.cumsum(axis=0)).astype(np.float32)


def test_every_method_that_any_bundle_has_a_graph_of_has_a_reference() -> None:
    assert set(PRUNERS) == {row.name for row in (*EXPORTED, *ATTENTION_PRUNERS)}


@pytest.mark.parametrize("method", [row.name for row in EXPORTED])
@pytest.mark.parametrize("keep", [1, 7, TOKENS])
def test_stream_keeps_what_the_plain_method_keeps(method: str, keep: int) -> None:
    own = PRUNERS[method](PrunerPolicy(method=method, history=WINDOW, alpha=ALPHA))
    expected = REFERENCES[method](WINDOW, ALPHA)
    compared = 0
    for frame in a_stream():
        tokens = torch.from_numpy(frame)
        chosen = own.choose(VisualFrame(tokens), keep)
        own.remember(tokens)
        found = chosen.indices.tolist()
        assert torch.equal(chosen.tokens, tokens[chosen.indices])
        kept = expected.step(frame, keep).tolist()
        if (np.diff(np.sort(expected.scores)[keep - 1 : keep + 1]) > NEAR).all():
            assert found == kept
            compared += 1
    assert compared >= FRAMES - 2


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 99))
def test_visionzip_of_any_frame_is_what_the_formula_says(levels: list[int], count: int, seed: int) -> None:
    keep, draws = min(count, len(levels)), np.random.default_rng(seed)
    attention = np.array(levels, np.float32)
    tokens, keys = (draws.normal(size=(len(levels), width)).astype(np.float32) for width in (3, 5))
    last = LastLayer(torch.from_numpy(attention), torch.from_numpy(keys))
    kept = PRUNERS["visionzip"](PrunerPolicy()).choose(VisualFrame(torch.from_numpy(tokens), last), keep)
    expected, indices = visionzip(tokens, attention, keys, keep)
    assert kept.indices.tolist() == indices.tolist()
    np.testing.assert_allclose(kept.tokens, expected.reshape(keep, 3), atol=1e-5)


def test_lowest_keeps_the_lower_index_of_equal_scores() -> None:
    assert lowest(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), 2).tolist() == [1, 3]
