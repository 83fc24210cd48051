"""While nothing is forgotten, the reference is transformers' own LLM over the whole sequence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.reference.eager_stream import EagerStream, Reference


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> Reference:
    return Reference(tiny_checkpoint)


def test_frames_dialogue_and_question_equal_one_pass_of_transformers(reference: Reference) -> None:
    stream = EagerStream(reference, (500, 100), [497, 443, 220])
    frames = torch.randn(3, 9, 48)
    stream.add_frame(frames[0], list(range(9)))
    stream.add_frame(frames[1], list(range(9)))
    stream.remember([5, 6, 7, 498, 8])
    stream.add_frame(frames[2], list(range(9)))
    found = stream.logits([11, 12])
    parts = [stream.embed([497, 443, 220]), frames[0], frames[1], stream.newline(), stream.embed([5, 6, 7, 498, 8])]
    parts += [frames[2], stream.newline(), stream.embed([11, 12])]
    with torch.no_grad():
        hidden = reference.model.model.language_model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state
        expected = reference.model.lm_head(hidden[0, -1])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


def test_gap_of_a_frame_with_fewer_tokens_than_positions_equals_transformers_positions(reference: Reference) -> None:
    stream = EagerStream(reference, (500, 100), [497], span=9)
    frame = torch.randn(3, 48)
    stream.add_frame(frame, [0, 4, 5])
    found = stream.logits([11])
    embeds = torch.cat([stream.embed([497]), frame, stream.newline(), stream.embed([11])])
    positions = torch.tensor([[0, 1, 5, 6, 10, 11]])
    with torch.no_grad():
        hidden = reference.model.model.language_model(inputs_embeds=embeds[None], position_ids=positions)
        expected = reference.model.lm_head(hidden.last_hidden_state[0, -1])
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
