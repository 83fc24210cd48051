"""The memory in transformers' cache against the plain stream of the test suite, which rotates all keys anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stc_export.reference.attention import ATTENTIONS
from stc_export.reference.memory import StreamCache
from stc_export.reference.model import TorchModel
from stc_export.spec.errors import UnsupportedError
from stc_export.spec.policy import MemoryPolicy, Policy, Positions
from tests.checkpoints import tiny_dims
from tests.reference.eager_stream import EagerStream, Reference
from tests.stc_export.pipeline.small_bundle import small_manifest

SINK, QUESTION, KEPT = [497, 443, 220], [11, 12, 13], 4
#: Room for the sink and three frames; 16 positions for an answer.
MEMORY = MemoryPolicy(kv_tokens=3 + 3 * KEPT, answer_tokens=16)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> Reference:
    return Reference(tiny_checkpoint)


def a_model(reference: Reference, context: int) -> TorchModel:
    dims = replace(tiny_dims(), text=replace(tiny_dims().text, context=context))
    manifest = replace(small_manifest(), dims=dims)
    reference.model.requires_grad_(requires_grad=False)
    return TorchModel(reference.model, ATTENTIONS["eager"], manifest, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("positions", "span"), [("contiguous", KEPT), ("original", 9)])
@pytest.mark.parametrize("context", [70, 1024])
def test_logits_equal_the_plain_stream_over_evictions_and_rebases(
    reference: Reference, positions: Positions, span: int, context: int
) -> None:
    draws = torch.Generator().manual_seed(0)
    memory = StreamCache(
        a_model(reference, context), Policy(memory=replace(MEMORY, positions=positions)), tuple(SINK), KEPT
    )
    plain = EagerStream(reference, (15, 16), SINK, span=span)
    plain.memory.context = context
    for number in range(9):
        tokens = torch.randn(KEPT, 48, generator=draws)
        indices = np.sort(np.random.default_rng(number).permutation(9)[:KEPT])
        offsets = {"contiguous": np.arange(KEPT), "original": indices}[positions]
        assert memory.add_frame(tokens, indices) == plain.add_frame(tokens, offsets.tolist())
        plan = memory.question(1 + len(QUESTION))
        embeds = torch.cat([reference.model.model.image_newline[None], plain.embed(QUESTION)])
        found = memory.extend(embeds, plan.position)
        memory.forget_question()
        np.testing.assert_allclose(found, plain.logits(QUESTION), atol=2e-4)


def test_gaps_are_refused_to_flash_attention(reference: Reference) -> None:
    model = replace(a_model(reference, 1024), form=ATTENTIONS["flash_attention_2"])
    with pytest.raises(UnsupportedError, match=r'memory\.positions is "original"'):
        StreamCache(model, Policy(memory=replace(MEMORY, positions="original")), tuple(SINK), KEPT)
