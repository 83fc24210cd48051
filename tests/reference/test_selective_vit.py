import pytest
import torch
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from tests.reference.selective_vit import Encoder, full, gate, gate_state, per_layer, shared

TOKENS, WIDTH, HEADS, EPS = 25, 24, 3, 1e-6
RANKED = {"per_layer": per_layer, "shared": shared}
EXACT = {"rtol": 0, "atol": 1e-12}


@pytest.fixture(scope="module")
def siglip():
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        layer_norm_eps=EPS,
        hidden_act="gelu_pytorch_tanh",
        attn_implementation="eager",
    )
    encoder = SiglipEncoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # the default initialisation leaves biases at 0 and norms at 1
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


@pytest.fixture(scope="module")
def encoder(siglip):
    layers = [{name: p.detach().double() for name, p in layer.named_parameters()} for layer in siglip.layers]
    return Encoder(layers, HEADS, EPS)


@pytest.fixture
def two_frames():
    """Two frames that differ in every token, and much more in tokens 3 and 17."""
    generator = torch.Generator().manual_seed(1)
    first, noise = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=generator)
    change = torch.full((TOKENS, 1), 0.01, dtype=torch.float64)
    change[[3, 17]] = 2.0
    return first, first + change * noise


def states_equal(a, b):
    return all(
        torch.allclose(getattr(s, n), getattr(t, n), **EXACT) for s, t in zip(a, b, strict=True) for n in vars(s)
    )


def test_full_equals_transformers_encoder(siglip, encoder, two_frames):
    x0 = two_frames[0]
    with torch.no_grad():
        expected = siglip(inputs_embeds=x0.float()[None]).last_hidden_state[0]
    torch.testing.assert_close(full(encoder, x0)[0].float(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("selective", RANKED.values(), ids=RANKED)
def test_ranked_with_all_tokens_equals_full(encoder, two_frames, selective):
    _, cached = full(encoder, two_frames[0])
    expected, states = full(encoder, two_frames[1])
    x, mixed, _ = selective(encoder, two_frames[1], cached, TOKENS)
    torch.testing.assert_close(x, expected, **EXACT)
    assert states_equal(mixed, states)


def test_gate_with_all_tokens_equals_full(encoder, two_frames):
    _, cached = full(encoder, two_frames[0])
    expected, states = full(encoder, two_frames[1])
    x, mixed = gate(encoder, two_frames[1], gate_state(cached), torch.randperm(TOKENS))
    torch.testing.assert_close(x, expected, **EXACT)
    torch.testing.assert_close(mixed.delta, gate_state(states).delta, **EXACT)
    torch.testing.assert_close(mixed.keys, gate_state(states).keys, **EXACT)
    torch.testing.assert_close(mixed.values, gate_state(states).values, **EXACT)


@pytest.mark.parametrize("selective", RANKED.values(), ids=RANKED)
@pytest.mark.parametrize("count", [1, 6])
def test_ranked_with_static_input_returns_the_cached_result(encoder, two_frames, selective, count):
    expected, cached = full(encoder, two_frames[0])
    x, mixed, _ = selective(encoder, two_frames[0], cached, count)
    torch.testing.assert_close(x, expected, **EXACT)
    assert states_equal(mixed, cached)


@pytest.mark.parametrize("indices", [[], [4], [9, 0, 24]], ids=len)
def test_gate_with_static_input_returns_the_cached_result(encoder, two_frames, indices):
    expected, cached = full(encoder, two_frames[0])
    x, mixed = gate(encoder, two_frames[0], gate_state(cached), torch.tensor(indices, dtype=torch.int64))
    torch.testing.assert_close(x, expected, **EXACT)
    torch.testing.assert_close(mixed.delta, gate_state(cached).delta, **EXACT)


@pytest.mark.parametrize("selective", RANKED.values(), ids=RANKED)
def test_ranked_with_two_changed_tokens_selects_them_in_the_first_layer(encoder, two_frames, selective):
    _, cached = full(encoder, two_frames[0])
    _, _, chosen = selective(encoder, two_frames[1], cached, 2)
    assert sorted(chosen[0].tolist()) == [3, 17]


def test_shared_uses_one_set_and_per_layer_may_use_others(encoder, two_frames):
    _, cached = full(encoder, two_frames[0])
    reversed_frame = two_frames[0].flip(0)
    sets = {name: {tuple(i.tolist()) for i in f(encoder, reversed_frame, cached, 6)[2]} for name, f in RANKED.items()}
    assert len(sets["shared"]) == 1
    assert len(sets["per_layer"]) > 1


def test_unselected_tokens_end_as_their_embedding_plus_the_reference_delta(encoder, two_frames):
    reference, cached = full(encoder, two_frames[0])
    expected = two_frames[1] + (reference - two_frames[0])
    unselected = torch.ones(TOKENS, dtype=torch.bool)
    unselected[[3, 17]] = False
    by_gate, _ = gate(encoder, two_frames[1], gate_state(cached), torch.tensor([17, 3]))
    by_rank, _, _ = shared(encoder, two_frames[1], cached, 2)
    torch.testing.assert_close(by_gate[unselected], expected[unselected], **EXACT)
    torch.testing.assert_close(by_rank[unselected], expected[unselected], **EXACT)


def test_gate_equals_shared_when_unselected_tokens_are_static(encoder, two_frames):
    _, cached = full(encoder, two_frames[0])
    frame = two_frames[0].clone()
    frame[[3, 17]] = two_frames[1][[3, 17]]
    by_rank, states, _ = shared(encoder, frame, cached, 2)
    by_gate, mixed = gate(encoder, frame, gate_state(cached), torch.tensor([3, 17]))
    torch.testing.assert_close(by_gate, by_rank, **EXACT)
    torch.testing.assert_close(mixed.keys, gate_state(states).keys, **EXACT)
    torch.testing.assert_close(mixed.values, gate_state(states).values, **EXACT)
    torch.testing.assert_close(mixed.delta, gate_state(states).delta, **EXACT)


def test_mixed_state_replaces_selected_rows_only(encoder, two_frames):
    _, cached = full(encoder, two_frames[0])
    _, mixed, chosen = per_layer(encoder, two_frames[1], cached, 4)
    for old, new, indices in zip(cached, mixed, chosen, strict=True):
        for name in vars(old):
            changed = (getattr(old, name) != getattr(new, name)).any(dim=1)
            assert sorted(changed.nonzero()[:, 0].tolist()) == sorted(indices.tolist())
