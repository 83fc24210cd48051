import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stc_export.pruners.ranking import keep_lowest


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_keep_lowest_with_many_ties_equals_a_stable_sort(scores, data):
    keep = data.draw(st.integers(1, len(scores)))
    kept = keep_lowest(torch.tensor(scores, dtype=torch.float32), torch.zeros(keep, dtype=torch.int64))
    np.testing.assert_array_equal(kept, np.sort(np.argsort(scores, kind="stable")[:keep]))


def test_keep_lowest_with_neighbouring_floats_tells_them_apart():
    one = np.float32(1)
    scores = torch.tensor([one, np.nextafter(one, np.float32(0)), one])
    np.testing.assert_array_equal(keep_lowest(scores, torch.zeros(1, dtype=torch.int64)), [1])
