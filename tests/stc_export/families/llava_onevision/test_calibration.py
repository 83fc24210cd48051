"""Prompts through the model layer by layer, against transformers' model as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stc_calib.pictures import real_frames
from stc_export.exporter.checkpoint import read_checkpoint
from stc_export.exporter.preprocess import read_preprocessing
from stc_export.families import find_family
from stc_export.families.base import Prompt, Ran
from stc_export.families.llava_onevision.calibration import groups
from stc_export.families.llava_onevision.weights import canonical
from stc_export.spec.dims import TextDims
from tests.stc_export.families.llava_onevision.model import pixels, relative_error

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PROMPTS = (
    Prompt(real_frames(70), (5, 300, 7), (11, 12)),
    Prompt(real_frames(70)[:1], (5,), (400, 401, 402, 403)),
)


@pytest.fixture(scope="module", params=["tiny", "untied"])
def directory(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_checkpoint")


@pytest.fixture(scope="module")
def original(directory: Path) -> Any:
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    return LlavaOnevisionForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def embeds(directory: Path) -> tuple[NDArray[np.float32], ...]:
    checkpoint = read_checkpoint(directory, canonical)
    model = find_family(checkpoint.config, "x").read(checkpoint.config, "x")
    return model.embed_prompts(checkpoint, read_preprocessing(directory, 70), PROMPTS, {}).prompts


@pytest.fixture(scope="module")
def ran(directory: Path, embeds: tuple[NDArray[np.float32], ...]) -> tuple[Ran, ...]:
    checkpoint = read_checkpoint(directory, canonical)
    language = find_family(checkpoint.config, "x").read(checkpoint.config, "x").language(checkpoint)
    first = language.run(0, embeds, 10_000)
    return first, language.run(1, first.hidden, 6)


def expected_embeds(original: Any, prompt: Prompt) -> torch.Tensor:
    video = torch.stack([pixels(frame)[0] for frame in prompt.frames])[None]
    with torch.no_grad():
        tokens = original.model.get_video_features(video).pooler_output[0]  # with the newline
        before, after = (original.get_input_embeddings()(torch.tensor(ids)) for ids in (prompt.before, prompt.after))
    return torch.cat([before, tokens, after])


def test_prompts_are_embedded_as_transformers_embeds_a_video(
    original: Any, embeds: tuple[NDArray[np.float32], ...]
) -> None:
    for prompt, found in zip(PROMPTS, embeds, strict=True):
        assert len(found) == len(prompt.before) + 9 * len(prompt.frames) + 1 + len(prompt.after)
        assert relative_error(found, expected_embeds(original, prompt)) < 1e-4


def test_layers_one_by_one_give_the_logits_of_the_whole_model(
    directory: Path, original: Any, ran: tuple[Ran, ...]
) -> None:
    checkpoint = read_checkpoint(directory, canonical)
    language = find_family(checkpoint.config, "x").read(checkpoint.config, "x").language(checkpoint)
    for prompt, found in zip(PROMPTS, language.answer(ran[1].hidden), strict=True):
        with torch.no_grad():
            states = original.model.language_model(inputs_embeds=expected_embeds(original, prompt)[None])
            logits = original.lm_head(states.last_hidden_state[0, -1])
        assert relative_error(found.hidden, states.last_hidden_state[0]) < 1e-4
        assert relative_error(found.logits, logits) < 1e-4


def test_what_linear_layers_read_is_what_modules_of_transformers_get(original: Any, ran: tuple[Ran, ...]) -> None:
    modules = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    heard: dict[str, list[torch.Tensor]] = {name: [] for name in modules}
    layer = original.model.language_model.layers[0]
    handles = [
        layer.get_submodule(name).register_forward_hook(lambda _m, args, _out, n=name: heard[n].append(args[0][0]))
        for name in modules
    ]
    with torch.no_grad():
        for prompt in PROMPTS:
            original.model.language_model(inputs_embeds=expected_embeds(original, prompt)[None])
    for handle in handles:
        handle.remove()
    for read, name in zip(ran[0].reads, modules, strict=True):
        assert relative_error(read.inputs, torch.cat(heard[name])) < 1e-4, name


def test_no_more_tokens_are_kept_than_asked_for(ran: tuple[Ran, ...]) -> None:
    """3 + 18 + 1 + 2 and 1 + 9 + 1 + 4 tokens: 39, of which every seventh is kept."""
    assert [len(read.inputs) for read in ran[0].reads] == [39] * 4
    assert [len(read.inputs) for read in ran[1].reads] == [6] * 4


@pytest.mark.parametrize(("kv_heads", "folds"), [(4, True), (2, False)])
def test_scales_of_the_output_projection_need_a_head_of_values_for_each_query(kv_heads: int, folds: bool) -> None:
    text = TextDims(48, 112, 4, kv_heads, 16, 2, 512, 1024, 1e6)
    (out,) = (group for group in groups(text, 1) if "o_proj" in group.layers[0])
    names = tuple(f"language_model.layers.1.self_attn.v_proj.{kind}" for kind in ("weight", "bias"))
    assert out.before == (names if folds else ())
