"""The selective passes in transformers' layers against the plain ones of the test suite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from stc_export.reference.metrics import METRICS, cosine
from stc_export.reference.vision import SELECTIVE_PASSES, FrameCache, carried, full_pass
from stc_export.spec.policy import Metric, Selection
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
    done = full_pass(siglip.layers, start)
    features, cache = done.features, done.cache
    torch.testing.assert_close(features, siglip(inputs_embeds=start[None]).last_hidden_state[0], **CLOSE)
    expected, states = plain.full(plain_encoder(siglip), start)
    torch.testing.assert_close(features, expected, **CLOSE)
    for own, state in zip(cache.layers, states, strict=True):
        for name in ("key", "value", "attention", "mlp"):
            torch.testing.assert_close(getattr(own, name), getattr(state, name), **CLOSE)
    torch.testing.assert_close(cache.delta, expected - start, **CLOSE)
    weights = eager_weights(siglip, start)
    torch.testing.assert_close(done.last_layer.attention, weights.mean(dim=(0, 1)), **CLOSE)


def eager_weights(siglip: SiglipEncoder, start: Tensor) -> Tensor:
    """What transformers' plain attention gives as the weights [heads, T, T] of the last layer."""
    seen: list[Tensor] = []
    used = siglip.config._attn_implementation
    siglip.config._attn_implementation = "eager"
    hook = siglip.layers[-1].self_attn.register_forward_hook(lambda _module, _args, out: seen.append(out[1][0]))
    siglip(inputs_embeds=start[None])
    hook.remove()
    siglip.config._attn_implementation = used
    return seen[0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
def test_ranked_pass_equals_the_plain_one(siglip: SiglipEncoder, selection: Selection, metric: Metric) -> None:
    first, second = two_frames()
    cache = full_pass(siglip.layers, first).cache
    _, states = plain.full(plain_encoder(siglip), first)
    run: Any = getattr(plain, selection)
    expected, mixed, _ = run(plain_encoder(siglip), second, states, COUNT, metric)
    done = SELECTIVE_PASSES[selection](siglip.layers, second, cache, torch.arange(COUNT), METRICS[metric])
    torch.testing.assert_close(done.features, expected, **CLOSE)
    for own, state in zip(done.cache.layers, mixed, strict=True):
        torch.testing.assert_close(own.key, state.key, **CLOSE)
        torch.testing.assert_close(own.mlp, state.mlp, **CLOSE)


def test_gate_pass_equals_the_plain_one_twice_in_a_row(siglip: SiglipEncoder) -> None:
    first, second = two_frames()
    cache = full_pass(siglip.layers, first).cache
    state = plain.gate_state(plain.full(plain_encoder(siglip), first)[1])
    for indices in (torch.tensor([3, 9, 24]), torch.tensor([0, 9])):
        received = plain.gate_attention(plain_encoder(siglip), second, state, indices)
        expected, state = plain.gate(plain_encoder(siglip), second, state, indices)
        done = SELECTIVE_PASSES["gate"](siglip.layers, second, cache, indices, cosine)
        cache = done.cache
        torch.testing.assert_close(done.features, expected, **CLOSE)
        torch.testing.assert_close(cache.delta, state.delta, **CLOSE)
        torch.testing.assert_close(done.last_layer.attention, received, **CLOSE)
        torch.testing.assert_close(
            done.last_layer.keys, torch.stack(state.keys[-1].chunk(HEADS, -1)).mean(dim=0), **CLOSE
        )


def test_gain_and_drift_equal_the_plain_ones_twice_in_a_row(siglip: SiglipEncoder) -> None:
    first, second = two_frames()
    cache = full_pass(siglip.layers, first).cache
    state = plain.gate_state(plain.full(plain_encoder(siglip), first)[1])
    for indices in (torch.tensor([3, 9, 24]), torch.arange(25), torch.tensor([0, 9])):
        gain, drift = torch.rand((2, len(indices)), generator=torch.Generator().manual_seed(len(indices)))
        expected, state = plain.gate(plain_encoder(siglip), second, state, indices, plain.Shares(gain, drift))
        done = SELECTIVE_PASSES["gate"](siglip.layers, second, cache, indices, cosine)
        done = carried(done, second, cache, indices, gain, drift)
        cache = done.cache
        torch.testing.assert_close(done.features, expected, **CLOSE)
        torch.testing.assert_close(cache.delta, state.delta, **CLOSE)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_overflowed_is_not_carried(siglip: SiglipEncoder, bad: float) -> None:
    first, second = two_frames()
    cache = full_pass(siglip.layers, first).cache
    cache.delta[7] = bad
    done, everything = full_pass(siglip.layers, second), torch.arange(25)
    after = carried(done, second, cache, everything, torch.full((25,), 0.75), torch.zeros(25))
    assert torch.equal(after.cache.delta[7], done.cache.delta[7])
    assert after.cache.delta.isfinite().all()
    assert torch.equal(after.features, done.features)


def test_a_pass_leaves_the_cache_that_it_got_as_it_was(siglip: SiglipEncoder) -> None:
    first, second = two_frames()
    for run in SELECTIVE_PASSES.values():
        cache = full_pass(siglip.layers, first).cache
        before = [layer.key.clone() for layer in cache.layers]
        assert isinstance(run(siglip.layers, second, cache, torch.arange(COUNT), cosine).cache, FrameCache)
        assert all(torch.equal(a, b.key) for a, b in zip(before, cache.layers, strict=True))
