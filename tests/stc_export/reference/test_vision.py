"""The selective passes in transformers' layers against the plain ones of the test suite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from stc_export.reference.vision import SELECTIVE_PASSES, FrameCache, full_pass
from tests.reference import selective_vit as plain

TOKENS, WIDTH, HEADS, COUNT = 25, 24, 3, 6
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def siglip(request: pytest.FixtureRequest) -> SiglipEncoder:
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        hidden_act="gelu_pytorch_tanh",
        attn_implementation=request.param,
    )
    encoder = SiglipEncoder(config).eval().requires_grad_(requires_grad=False)
    for parameter in encoder.parameters():  # the default initialisation leaves biases at 0 and norms at 1
        parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def plain_encoder(siglip: SiglipEncoder) -> plain.Encoder:
    return plain.Encoder([dict(layer.named_parameters()) for layer in siglip.layers], HEADS, 1e-6)


def two_frames() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, noise = torch.randn(2, TOKENS, WIDTH, generator=generator)
    return first, first + torch.linspace(0.01, 1, TOKENS)[:, None] * noise


def test_full_pass_equals_transformers_and_keeps_what_each_layer_added(siglip: SiglipEncoder) -> None:
    start = two_frames()[0]
    features, cache = full_pass(siglip.layers, start)
    torch.testing.assert_close(features, siglip(inputs_embeds=start[None]).last_hidden_state[0], **CLOSE)
    expected, states = plain.full(plain_encoder(siglip), start)
    torch.testing.assert_close(features, expected, **CLOSE)
    for own, state in zip(cache.layers, states, strict=True):
        for name in ("key", "value", "attention", "mlp"):
            torch.testing.assert_close(getattr(own, name), getattr(state, name), **CLOSE)
    torch.testing.assert_close(cache.delta, expected - start, **CLOSE)


@pytest.mark.parametrize("selection", ["per_layer", "shared"])
def test_ranked_pass_equals_the_plain_one(siglip: SiglipEncoder, selection: str) -> None:
    first, second = two_frames()
    _, cache = full_pass(siglip.layers, first)
    _, states = plain.full(plain_encoder(siglip), first)
    run: Any = getattr(plain, selection)
    expected, mixed, _ = run(plain_encoder(siglip), second, states, COUNT)
    features, kept = SELECTIVE_PASSES[selection](siglip.layers, second, cache, torch.arange(COUNT))  # type: ignore[index]
    torch.testing.assert_close(features, expected, **CLOSE)
    for own, state in zip(kept.layers, mixed, strict=True):
        torch.testing.assert_close(own.key, state.key, **CLOSE)
        torch.testing.assert_close(own.mlp, state.mlp, **CLOSE)


def test_gate_pass_equals_the_plain_one_twice_in_a_row(siglip: SiglipEncoder) -> None:
    first, second = two_frames()
    _, cache = full_pass(siglip.layers, first)
    state = plain.gate_state(plain.full(plain_encoder(siglip), first)[1])
    for indices in (torch.tensor([3, 9, 24]), torch.tensor([0, 9])):
        expected, state = plain.gate(plain_encoder(siglip), second, state, indices)
        features, cache = SELECTIVE_PASSES["gate"](siglip.layers, second, cache, indices)
        torch.testing.assert_close(features, expected, **CLOSE)
        torch.testing.assert_close(cache.delta, state.delta, **CLOSE)


def test_a_pass_leaves_the_cache_that_it_got_as_it_was(siglip: SiglipEncoder) -> None:
    first, second = two_frames()
    for run in SELECTIVE_PASSES.values():
        _, cache = full_pass(siglip.layers, first)
        before = [layer.key.clone() for layer in cache.layers]
        assert isinstance(run(siglip.layers, second, cache, torch.arange(COUNT))[1], FrameCache)
        assert all(torch.equal(a, b.key) for a, b in zip(before, cache.layers, strict=True))
