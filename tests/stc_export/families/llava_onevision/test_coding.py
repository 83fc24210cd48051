"""Graphs that keep keys and values in 8 bits: what they keep, and what they compute over it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import DynamicCache

from stc_export.families.llava_onevision.attention import masked_steps
from stc_export.families.llava_onevision.cache import Beside, InPlace
from stc_export.families.llava_onevision.coding import CODINGS
from stc_export.spec.interface import KV_STATE, kv_format, llm_interface
from stc_export.spec.manifest import read_manifest
from stc_runtime import Model
from stc_runtime.memory.kv import KVMemory, KVShape
from stc_runtime.memory.step import LLM_FORMS
from tests.reference.eager_stream import Reference
from tests.reference.kv_codes import coded, decoded


@pytest.fixture(scope="session", params=["tiny_kv_bundle", "tiny_kv_modern_bundle"])
def coded_bundle(request: pytest.FixtureRequest) -> Path:
    """One of each flavour."""
    path: Path = request.getfixturevalue(request.param)
    return path


class RoundingCache(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Keys and values of transformers, each rounded by the formula before anyone sees it."""

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *rest: Any) -> Any:
        return super().update(rounded(key), rounded(value), layer, *rest)


def rounded(rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(decoded(*coded(rows.numpy())).astype(np.float32))


def test_rows_are_kept_by_the_formula() -> None:
    rows = torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 40)[:, None]
    (codes, scale), values = CODINGS["int8"].keep(rows, -rows)
    assert all(torch.equal(mine, his) for mine, his in zip(values, (-codes, scale), strict=True))
    wanted, sizes = coded(rows.numpy())
    np.testing.assert_allclose(scale.numpy(), sizes, rtol=2e-6)
    differ = codes.numpy() != wanted
    assert differ.mean() < 1e-3
    assert np.abs(codes.numpy()[differ].astype(int) - wanted[differ]).max(initial=0) <= 1
    np.testing.assert_allclose(
        CODINGS["int8"].rows((codes, scale), rows), decoded(codes.numpy(), scale.numpy()), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_largest_number_of_a_row_is_the_largest_code_in_every_type(dtype: torch.dtype) -> None:
    rows = (torch.randn(1, 2, 500, 16, generator=torch.Generator().manual_seed(1)) * 30).to(dtype)
    (codes, scale), _ = CODINGS["int8"].keep(rows, rows)
    assert scale.dtype == dtype
    assert (codes.abs().amax(-1) == 127).all()
    assert (codes.sign() * rows.sign() >= 0).all()


@pytest.mark.parametrize("where", [0, 3, 15])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_number_that_is_not_finite_shows_in_the_scale_of_the_graph(tmp_path: Path, where: int, bad: float) -> None:
    """ONNX Runtime passes over a NaN when it looks for the largest number, unless it comes first."""

    class Keep(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> Any:
            return CODINGS["int8"].keep(rows, rows)[0]

    example = torch.randn(1, 2, 3, 16, generator=torch.Generator().manual_seed(2))
    path = tmp_path / "keep.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, of its own code
        torch.onnx.export(Keep().eval(), (example,), path, dynamo=True, verbose=False, opset_version=18)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = example.numpy().copy()
    rows[0, 1, 2, where] = bad
    codes, scale = session.run(None, {session.get_inputs()[0].name: rows})
    assert not np.isfinite(scale[0, 1, 2, 0])
    scale[0, 1, 2, 0] = 1.0
    assert np.isfinite(scale).all()
    np.testing.assert_array_equal(codes[0, 0], coded(example.numpy())[0][0, 0])


def test_both_caches_attend_to_what_is_kept() -> None:
    """One computes over codes, the other over the rows that they stand for; new tokens are seen rounded, too."""
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(1, 6, 5, 16, generator=generator)
    new = (torch.randn(1, 2, 5, 16, generator=generator), torch.randn(1, 2, 5, 16, generator=generator))
    before = (torch.randn(1, 2, 12, 16, generator=generator), torch.randn(1, 2, 12, 16, generator=generator))
    bias = torch.tensor([[0.0] * 7 + [-65504.0] * 5])
    coding = CODINGS["int8"]
    past = coding.keep(*before)
    beside = Beside(coding)
    found, kept = beside.attend(query, new, past, beside.places([bias], 5))
    keys, values = (
        torch.cat([rounded(old[:, :, :7]), rounded(fresh)], dim=2) for old, fresh in zip(before, new, strict=True)
    )
    mask = torch.cat([torch.zeros(5, 7), torch.full((5, 5), -65504.0).triu(1)], dim=1)
    expected = masked_steps(query, keys, values, mask)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    unrounded = masked_steps(query, *(torch.cat([o[:, :, :7], f], 2) for o, f in zip(before, new, strict=True)), mask)
    assert (unrounded - expected).abs().max() > 1e-3
    inside = InPlace(masked_steps, coding)
    place = inside.places([bias, torch.tensor([7])], 5)
    written, whole = inside.attend(query, new, past, place)
    np.testing.assert_allclose(written, expected, rtol=0, atol=2e-6)
    for cache, fresh in zip(whole, kept, strict=True):
        for tensor, rows in zip(cache, fresh, strict=True):
            np.testing.assert_array_equal(tensor[:, :, 7:12], rows)


def test_interface_has_codes_and_scales_in_the_order_of_the_state(coded_bundle: Path) -> None:
    manifest = read_manifest(coded_bundle)
    graph, text = manifest.graph("llm"), manifest.dims.text
    assert kv_format(graph) == "int8"
    kinds = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
    for end in ("in", "out"):
        for layer in range(text.layers):
            for name in ("key", "value"):
                codes, scale = kinds[f"{name}_{layer}_{end}"], kinds[f"{name}_scale_{layer}_{end}"]
                assert (codes.dtype, codes.shape[3]) == ("int8", text.head_dim)
                assert (scale.dtype, scale.shape[3]) == ("float32", 1)
                assert codes.shape[:3] == scale.shape[:3]
    plain = llm_interface(text, "float32", manifest.flavour, 100)
    assert len(graph.inputs) == len(plain.inputs) + 2 * text.layers
    assert len(KV_STATE["int8"]) == 2 * len(KV_STATE["floats"])


@torch.no_grad()
def test_logits_are_transformers_over_rounded_keys_and_values(coded_bundle: Path, tiny_checkpoint: Path) -> None:
    """Prefill in two calls, then decoding. What differs is a code that float32 rounds the other way, rarely."""
    reference = Reference(tiny_checkpoint)
    language, head = reference.model.model.language_model, reference.model.lm_head
    model = Model.open(coded_bundle)
    text, form = model.manifest.dims.text, LLM_FORMS[model.manifest.flavour]
    slots = form.slots(model.manifest, 100)
    memory = KVMemory(
        KVShape(text.layers, text.kv_heads, text.head_dim, slots.capacity, 1, slots.least, "int8"),
        np.float32,
        text.rope_theta,
    )
    cache, plain = RoundingCache(), DynamicCache()
    ids = np.random.default_rng(0).integers(0, text.vocab, 40).tolist()
    errors, cost, first = [], [], 0
    for last in (23, 38, 39, 40):
        embeds = model.embed(tuple(ids[first:last]))
        memory.used = first
        feeds = {
            "inputs_embeds": embeds[None],
            "position_ids": np.arange(first, last, dtype=np.int64)[None],
            "past_bias": memory.bias(),
        }
        found = form.run(model.engine("llm"), memory, feeds, first)()
        outs = [
            language(inputs_embeds=torch.from_numpy(embeds)[None], past_key_values=c, use_cache=True)
            for c in (cache, plain)
        ]
        expected, unrounded = (head(out.last_hidden_state[:, -1]).numpy() for out in outs)
        errors.append(np.abs(found - expected).max() / np.abs(expected).max())
        cost.append(np.abs(unrounded - expected).max() / np.abs(expected).max())
        first = last
    assert max(errors) < 0.1 * max(cost), (errors, cost)
    assert 1e-4 < max(cost) < 0.05
    for layer in range(text.layers):
        held = cache.layers[layer]
        keys, key_scales, values, value_scales = memory.past(layer)
        for kept, want in ((decoded(keys, key_scales), held.keys), (decoded(values, value_scales), held.values)):
            assert np.abs(kept[:, :, :40] - want.numpy()).mean() < 1e-3 * np.abs(want.numpy()).mean()
