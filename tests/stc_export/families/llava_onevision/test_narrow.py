"""Layers that compute in float32 over weights that stay narrow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stc_export.families.llava_onevision import blocks, narrow


def linear(dtype: torch.dtype, *, bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(7, 11, bias=bias).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("block_bytes", [1, 4 * 7 * 3, 10**6])
def test_layer_equals_the_one_whose_weight_is_converted_whole(
    dtype: torch.dtype, bias: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "BLOCK_BYTES", block_bytes)
    x = torch.randn(2, 5, 7)
    model = nn.Sequential(linear(dtype, bias=bias))
    expected = linear(dtype, bias=bias).float()(x)
    narrow.compute_in_float32(model)
    torch.testing.assert_close(model(x), expected)
    assert model[0].weight.dtype == dtype


def test_all_but_the_matrices_is_converted_and_no_weight_is_copied() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ours = blocks.Linear(3, 4, bias=True, dtype=torch.float16)
            self.theirs = nn.Linear(4, 5, dtype=torch.float16)
            self.norm = nn.LayerNorm(5, dtype=torch.bfloat16)
            self.scale = nn.Parameter(torch.ones(5, dtype=torch.float16))

        def forward(self, x: Any) -> Any:
            return self.norm(self.theirs(self.ours(x))) * self.scale

    model = Model()
    places = [model.ours.weight.data_ptr(), model.theirs.weight.data_ptr()]
    narrow.compute_in_float32(model)
    assert [model.ours.weight.data_ptr(), model.theirs.weight.data_ptr()] == places
    found = {name: value.dtype for name, value in model.named_parameters()}
    assert {name for name, dtype in found.items() if dtype == torch.float16} == {"ours.weight", "theirs.weight"}
    assert {dtype for name, dtype in found.items() if not name.endswith("s.weight")} == {torch.float32}
    assert model(torch.zeros(2, 3)).dtype == torch.float32


def test_float32_layers_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    narrow.compute_in_float32(model)
    assert type(model[0]) is nn.Linear
