"""The plain pruners of the reference against the ones of the test suite, in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stc_export.pruners import PRUNERS as EXPORTED
from stc_export.reference.pruners import PRUNERS, lowest
from stc_export.spec.policy import PrunerPolicy
from tests.reference.pruners import REFERENCES

FRAMES, TOKENS, WIDTH, WINDOW, ALPHA = 6, 20, 16, 3, 0.3
#: A token whose score is this close to the border may fall on either side in float32.
NEAR = 1e-4


def a_stream() -> np.ndarray:
    """Frames that change slowly, as those of a video do."""
    draws = np.random.default_rng(5)
    steps = draws.normal(size=(FRAMES, TOKENS, WIDTH)) * np.linspace(0.1, 1.0, TOKENS)[:, None]
    return (draws.normal(size=(TOKENS, WIDTH)) + steps.cumsum(axis=0)).astype(np.float32)


def test_every_method_that_any_bundle_has_a_graph_of_has_a_reference() -> None:
    assert set(PRUNERS) == {row.name for row in EXPORTED}


@pytest.mark.parametrize("method", PRUNERS)
@pytest.mark.parametrize("keep", [1, 7, TOKENS])
def test_stream_keeps_what_the_plain_method_keeps(method: str, keep: int) -> None:
    own = PRUNERS[method](PrunerPolicy(method=method, history=WINDOW, alpha=ALPHA))
    expected = REFERENCES[method](WINDOW, ALPHA)
    compared = 0
    for frame in a_stream():
        found = own.step(torch.from_numpy(frame), keep).tolist()
        kept = expected.step(frame, keep).tolist()
        if (np.diff(np.sort(expected.scores)[keep - 1 : keep + 1]) > NEAR).all():
            assert found == kept
            compared += 1
    assert compared >= FRAMES - 2


def test_lowest_keeps_the_lower_index_of_equal_scores() -> None:
    assert lowest(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), 2).tolist() == [1, 3]
