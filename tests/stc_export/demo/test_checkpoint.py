"""The demo checkpoint: what is in it, that it repeats byte for byte, and that its weights do something."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, LlavaOnevisionForConditionalGeneration

from stc_export.demo.checkpoint import CheckpointOptions, write_checkpoint
from stc_export.demo.tokenizer import SPECIAL_TOKENS, token_ids
from tests.checkpoints import medium_dims, tiny_dims

if TYPE_CHECKING:
    from pathlib import Path

# An image of soft blobs: neighbouring patches are alike and distant ones are not, as in a photograph.
_SIDE = 224


def _blobs(frames: int, side: int) -> torch.Tensor:
    coarse = torch.rand(frames, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") * 2 - 1


def _keys(directory: Path) -> set[str]:
    keys: set[str] = set()
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            keys |= set(weights.keys())
    return keys


@pytest.fixture(scope="module")
def model(medium_checkpoint: Path) -> Any:
    return LlavaOnevisionForConditionalGeneration.from_pretrained(medium_checkpoint, attn_implementation="eager").eval()


def test_medium_checkpoint_loads_with_every_key_and_keeps_the_untrained_mark(medium_checkpoint: Path) -> None:
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(medium_checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert json.loads((medium_checkpoint / "config.json").read_text())["stc_trained"] is False
    assert model.config.stc_trained is False
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == token_ids()["<|im_end|>"]


def test_write_checkpoint_twice_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)  # must not matter
    before = torch.random.get_rng_state()
    again = write_checkpoint(tmp_path / "again", tiny_dims(), CheckpointOptions(seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    first = {file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()}
    assert {file.name: file.read_bytes() for file in again.iterdir()} == first


def test_write_checkpoint_with_another_seed_gives_other_weights(tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", tiny_dims(), CheckpointOptions(seed=9))
    changed = {f.name for f in other.iterdir() if f.read_bytes() != (tiny_checkpoint / f.name).read_bytes()}
    assert changed == {"model.safetensors"}


def test_demo_weights_have_no_idle_bias_norm_or_newline(model: Any) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.std() > 0.01, name
        assert (parameter == 0).sum() == 0, name
        assert parameter.dim() > 1 or (parameter - 1).abs().max() > 0.1, name
    assert model.model.image_newline.norm() > 1


def test_demo_vision_attention_is_neither_uniform_nor_stuck_on_one_token(model: Any) -> None:
    with torch.no_grad():
        out = model.model.vision_tower(_blobs(1, _SIDE), output_hidden_states=True, output_attentions=True)
    for weights in out.attentions:
        entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1) / math.log(weights.shape[-1])
        assert 0.3 < entropy.mean() < 0.9
    for states in out.hidden_states:
        assert 0.5 < states.std() < 5
        neighbours = torch.nn.functional.cosine_similarity(states[0, :-1], states[0, 1:], dim=-1)
        assert neighbours.mean() < 0.8


def test_demo_answers_depend_on_video_and_question(medium_checkpoint: Path, model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(medium_checkpoint)
    video = _blobs(2, _SIDE)[None]
    answers = set()
    for question in ("What is on the table?", "Where is the ball now?"):
        prompt = f"<|im_start|>user {'<video>' * (2 * 49 + 1)}\n{question}<|im_end|><|im_start|>assistant\n"
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for pixels in (video, -video):
            out = model.generate(input_ids=ids, pixel_values_videos=pixels, max_new_tokens=12, do_sample=False)
            answers.add(tuple(out[0, ids.shape[1] :].tolist()))
    assert len(answers) == 4
    assert len(set().union(*answers)) >= 5  # not one token for ever


def test_demo_tokenizer_gives_bytes_then_merges_then_special_tokens(medium_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(medium_checkpoint)
    assert len(tokenizer) == 501 <= medium_dims().text.vocab
    assert {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL_TOKENS} == token_ids()
    text = "Où est l'été? 3 chats 😀\t\n  end"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer("What is on the table?").input_ids) < 12


def test_demo_chat_template_renders_as_the_published_one_does(medium_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(medium_checkpoint)
    user = {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "video"}, {"type": "image"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}
    text = tokenizer.apply_chat_template([user, answer, user], tokenize=False, add_generation_prompt=True)
    turn = "<|im_start|>user <image><video>\nHi<|im_end|>"
    assert text == f"{turn}<|im_start|>assistant \nYes<|im_end|>{turn}<|im_start|>assistant\n"


def test_demo_preprocessing_files_load_in_transformers(medium_checkpoint: Path) -> None:
    from transformers import LlavaOnevisionImageProcessorPil

    processor = LlavaOnevisionImageProcessorPil.from_pretrained(medium_checkpoint)
    assert dict(processor.size) == {"height": 224, "width": 224}
    assert (list(processor.image_mean), list(processor.image_std), int(processor.resample)) == ([0.5] * 3, [0.5] * 3, 3)
    video = json.loads((medium_checkpoint / "video_preprocessor_config.json").read_text())
    assert (video["size"], video["resample"]) == ({"height": 224, "width": 224}, 3)


def test_layouts_differ_in_names_only(
    tiny_checkpoint: Path, sharded_checkpoint: Path, old_layout_checkpoint: Path, new_layout_checkpoint: Path
) -> None:
    assert (sharded_checkpoint / "model.safetensors.index.json").is_file()
    assert "vision_tower.vision_model.post_layernorm.weight" in _keys(old_layout_checkpoint)
    assert "language_model.model.norm.weight" in _keys(old_layout_checkpoint) & _keys(tiny_checkpoint)
    assert "model.language_model.norm.weight" in _keys(new_layout_checkpoint)
    load = LlavaOnevisionForConditionalGeneration.from_pretrained
    expected = load(tiny_checkpoint).state_dict()
    for directory in (sharded_checkpoint, old_layout_checkpoint, new_layout_checkpoint):
        model, info = load(directory, output_loading_info=True)
        assert not info["missing_keys"] | info["unexpected_keys"]
        assert model.config.text_config.rope_parameters["rope_theta"] == 1e6
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_untied_checkpoint_has_an_output_matrix_of_its_own(untied_checkpoint: Path, tiny_checkpoint: Path) -> None:
    assert "language_model.lm_head.weight" in _keys(untied_checkpoint)
    assert not any("lm_head" in key for key in _keys(tiny_checkpoint))
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(untied_checkpoint)
    assert model.config.vision_feature_layer == -2
    assert not torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)


def test_siglip_checkpoint_has_the_published_sizes(siglip_checkpoint: Path) -> None:
    with safe_open(siglip_checkpoint / "model.safetensors", "pt") as weights:
        shapes = {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118 - not a dict
    position = next(shape for key, shape in shapes.items() if key.endswith("position_embedding.weight"))
    fc1 = next(shape for key, shape in shapes.items() if key.endswith("mlp.fc1.weight"))
    assert (position, fc1) == ((729, 1152), (4304, 1152))
