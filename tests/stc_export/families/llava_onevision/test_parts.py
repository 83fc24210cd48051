"""The parts that differ between flavours: the same numbers, and the operators that they are there for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from stc_export.families.llava_onevision import attention, blocks, rotary
from stc_export.families.llava_onevision.cache import HIDDEN, InPlace
from stc_export.families.llava_onevision.coding import CODINGS
from stc_export.families.llava_onevision.parts import PARTS
from stc_export.spec.manifest import PRECISION_DTYPES, Flavour, read_manifest


def test_every_flavour_has_its_parts_in_every_precision() -> None:
    assert set(PARTS) == {(flavour, dtype) for flavour in get_args(Flavour) for dtype in PRECISION_DTYPES.values()}


def test_norm_in_steps_and_as_one_operator_are_the_same() -> None:
    x, weight = torch.randn(7, 48) * 30, torch.randn(48)
    torch.testing.assert_close(blocks.rms_norm(x, weight, 1e-6), blocks.rms_norm_steps(x, weight, 1e-6))


def test_rotation_in_steps_and_as_one_operator_are_the_same() -> None:
    table = rotary.rotary_table(torch.tensor([[3, 4, 900, 31000]]), 1.0 / 1e6 ** (torch.arange(8) / 8))
    x = torch.randn(1, 6, 4, 16)
    torch.testing.assert_close(rotary.rotate(x, table), rotary.rotate_steps(x, table))


def test_attention_of_the_vit_in_steps_and_as_one_operator_are_the_same() -> None:
    q, k, v = torch.randn(2, 3, 16), torch.randn(2, 25, 16), torch.randn(2, 25, 16)
    torch.testing.assert_close(attention.vision(q, k, v), attention.vision_steps(q, k, v))


def test_grouped_attention_in_steps_and_as_one_operator_are_the_same_as_plain_numpy() -> None:
    q, k, v = torch.randn(1, 6, 3, 16), torch.randn(1, 2, 11, 16), torch.randn(1, 2, 11, 16)
    mask = torch.where(torch.rand(3, 11) < 0.4, HIDDEN, 0.0)
    expected = np.zeros((6, 3, 16))
    for head in range(6):
        keys, values = k[0, head // 3].double().numpy(), v[0, head // 3].double().numpy()
        scores = q[0, head].double().numpy() @ keys.T / 4 + mask.numpy()
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected[head] = weights / weights.sum(axis=1, keepdims=True) @ values
    for form in (attention.masked, attention.masked_steps):
        np.testing.assert_allclose(form(q, k, v, mask).numpy(), expected, rtol=0, atol=1e-5)


def test_mask_shows_the_past_and_the_new_tokens_up_to_ones_own() -> None:
    bias = torch.tensor([[0.0, 0.0, HIDDEN, 0.0, HIDDEN, HIDDEN, HIDDEN, HIDDEN]])
    mask, slot = InPlace(attention.masked, CODINGS["floats"]).places([bias, torch.tensor([4])], 3)
    seen = [[int(value == 0) for value in row] for row in mask.tolist()]
    assert seen == [[1, 1, 0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1, 1, 0]]
    assert slot.tolist() == [4]


# --- graphs ----------------------------------------------------------------------------------------------------------


def operators(bundle: Path, file: str) -> Counter[str]:
    model = onnx.load(bundle / file, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
    onnx.checker.check_model(str(bundle / file))
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("name", "fused"), [("tiny_modern_bundle", 0), ("tiny_modern_bundle_fp16", 1)])
def test_graphs_have_one_operator_per_layer_for_what_the_flavour_fuses(
    name: str, fused: int, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(name)
    manifest = read_manifest(bundle)
    vision, text = manifest.dims.vision.layers, manifest.dims.text.layers
    for graph in manifest.graphs:
        found = operators(bundle, graph.file)
        layers = {"vit": vision, "llm": text}.get(graph.role, 0)
        assert (found["Attention"], found["Softmax"]) == (fused * layers, (1 - fused) * layers), graph.file
    llm = operators(bundle, "graphs/llm.onnx")
    assert (llm["TensorScatter"], llm["RotaryEmbedding"]) == (2 * text, text)
    assert (llm["RMSNormalization"], llm["Sqrt"]) == (2 * text + 1, 0)
    # The mask is made once, keys are not repeated for their groups, and no cache is gathered, joined or expanded.
    assert (llm["Where"], llm["Expand"], llm["Tile"], llm["ScatterND"]) == (1, 0, 0, 0)
