"""Configs of LLaVA-OneVision: as published, as saved by transformers, and everything that cannot be exported."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.families import find_family
from stc_export.families.llava_onevision.config import LlavaConfig, config_from_json
from stc_export.families.llava_onevision.weights import canonical
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.errors import CheckpointError, StcError, UnsupportedError
from tests.checkpoints import tiny_dims

if TYPE_CHECKING:
    from pathlib import Path

#: ``config.json`` of the published 0.5B checkpoint, without the keys that say nothing about its graphs.
PUBLISHED: dict[str, Any] = {
    "architectures": ["LlavaOnevisionForConditionalGeneration"],
    "model_type": "llava_onevision",
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "Qwen/Qwen2-0.5B-Instruct",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vocab_size": 152000,
    },
    "tie_word_embeddings": False,
    "use_image_newline_parameter": True,
    "vision_aspect_ratio": "anyres_max_9",
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "patch_size": 14,
        "vision_use_head": False,
    },
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(PUBLISHED)
    *sections, key = path.split(".")
    owner = config
    for section in sections:
        owner = owner[section]
    owner[key] = value
    return config


def read(config: dict[str, Any]) -> LlavaConfig:
    return config_from_json(config, "my-model")


def test_published_config_is_read() -> None:
    assert read(PUBLISHED) == LlavaConfig(
        dims=ModelDims(
            VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26),
            TextDims(896, 4864, 14, 2, head_dim=64, layers=24, vocab=152000, context=32768, rope_theta=1e6),
        ),
        vision_eps=1e-6,
        text_eps=1e-6,
        projector_act="gelu",
        projector_bias=True,
        vision_act="gelu_pytorch_tanh",
        tied=True,
        trained=True,
    )


@pytest.mark.parametrize("name", ["tiny", "sharded", "new_layout", "old_layout"])
def test_saved_config_of_each_layout_gives_the_sizes_it_was_written_with(
    request: pytest.FixtureRequest, name: str
) -> None:
    directory: Path = request.getfixturevalue(f"{name}_checkpoint")
    found = read(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    assert found.dims == tiny_dims()
    assert (found.tied, found.trained) == (True, False)


@pytest.mark.parametrize(
    ("whole", "text", "tied"),
    [(True, False, True), (False, True, True), (True, True, True), (False, False, False), (None, None, False)],
)
def test_output_layer_is_tied_if_either_part_says_so(whole: Any, text: Any, tied: bool) -> None:
    """As transformers reads it: the published 0.5B checkpoint has no output layer, and only its text part says why."""
    from transformers import LlavaOnevisionConfig

    config = changed("tie_word_embeddings", whole)
    config["text_config"]["tie_word_embeddings"] = text
    if whole is None:
        del config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    assert LlavaOnevisionConfig.from_dict(copy.deepcopy(config)).tie_word_embeddings is tied
    assert read(config).tied is tied


@pytest.mark.parametrize(("layer", "used"), [(-1, 26), (-2, 25), (26, 26), (1, 1), (-26, 1)])
def test_feature_layer_counts_hidden_states_from_both_ends(layer: int, used: int) -> None:
    assert read(changed("vision_feature_layer", layer)).dims.vision.layers == used


def test_values_that_transformers_leaves_out_have_its_defaults() -> None:
    from transformers import Qwen2Config, SiglipVisionConfig

    config = {"vision_config": {"model_type": "siglip_vision_model"}, "text_config": {"model_type": "qwen2"}}
    found, vision, text = read(config), SiglipVisionConfig(), Qwen2Config()
    assert found.dims.vision == VisionDims(
        vision.image_size,
        vision.patch_size,
        vision.hidden_size,
        vision.intermediate_size,
        vision.num_attention_heads,
        vision.num_hidden_layers,
    )
    assert found.dims.text == TextDims(
        text.hidden_size,
        text.intermediate_size,
        text.num_attention_heads,
        text.num_key_value_heads,
        text.hidden_size // text.num_attention_heads,
        text.num_hidden_layers,
        text.vocab_size,
        text.max_position_embeddings,
        rope_theta=10000.0,
    )
    assert (found.vision_eps, found.text_eps) == (vision.layer_norm_eps, text.rms_norm_eps)
    assert (found.vision_act, found.tied) == (vision.hidden_act, text.tie_word_embeddings)


def test_rotary_base_is_found_in_both_places() -> None:
    config = changed("text_config.rope_parameters", {"rope_type": "default", "rope_theta": 5e5})
    assert read(config).dims.text.rope_theta == 5e5
    del config["text_config"]["rope_parameters"]
    assert read(config).dims.text.rope_theta == 1e6


@pytest.mark.parametrize(
    ("path", "value", "choices"),
    [
        ("vision_config.model_type", "clip_vision_model", "'siglip_vision_model'"),
        ("text_config.model_type", "llama", "'qwen2'"),
        ("vision_config.hidden_act", "quick_gelu", "'gelu_pytorch_tanh' or 'gelu'"),
        ("text_config.hidden_act", "gelu", "'silu'"),
        ("projector_hidden_act", "relu", "'gelu' or 'gelu_pytorch_tanh'"),
        ("vision_feature_select_strategy", "default", "'full'"),
        ("text_config.use_sliding_window", True, "False"),
        ("vision_config.num_channels", 4, "3"),
    ],
)
def test_part_that_is_not_exported_is_named_with_what_is(path: str, value: Any, choices: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(changed(path, value))
    assert caught.value.problem == f'"my-model" has {path} = {value!r}; llava_onevision exports {choices}.'
    assert caught.value.fix == "Use a checkpoint of that form."


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_scaled_rotary_embedding_is_not_exported(key: str, name: str) -> None:
    with pytest.raises(
        UnsupportedError, match=r"has text_config\.rope_type = 'yarn'; llava_onevision exports 'default'"
    ):
        read(changed(f"text_config.{key}", {name: "yarn", "factor": 4.0}))


@pytest.mark.parametrize("value", [[-2, -1], None, "last", 1.0, True])
def test_feature_layer_that_is_not_one_number_is_not_exported(value: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(changed("vision_feature_layer", value))
    assert caught.value.problem == (
        f'"my-model" has vision_feature_layer = {value!r}; the output of one layer is exported.'
    )


@pytest.mark.parametrize(("image", "patch", "tokens"), [(1024, 16, 4096), (30, 14, 4), (14, 14, 1)])
def test_too_many_or_too_few_tokens_are_not_exported(image: int, patch: int, tokens: int) -> None:
    config = changed("vision_config.image_size", image)
    config["vision_config"]["patch_size"] = patch
    with pytest.raises(UnsupportedError, match=rf"has {tokens} ViT tokens per frame; 9 to 3,840 are exported\."):
        read(config)


def test_short_context_is_not_exported() -> None:
    with pytest.raises(UnsupportedError, match=r"has a context of 32 tokens; at least 64 are needed"):
        read(changed("text_config.max_position_embeddings", 32))


@pytest.mark.parametrize("layer", [0, 27, -27, 10**30])
def test_feature_layer_that_the_vit_does_not_have_is_refused(layer: int) -> None:
    with pytest.raises(CheckpointError, match=rf"has vision_feature_layer = {layer}, but the ViT has 26 layers\."):
        read(changed("vision_feature_layer", layer))


@pytest.mark.parametrize("value", [0, -1, 2**40, "32", 32.0, True, None, [384, 384], float("nan")])
@pytest.mark.parametrize("path", ["vision_config.image_size", "vision_config.hidden_size", "text_config.vocab_size"])
def test_size_that_is_no_possible_number_is_refused(path: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(changed(path, value))
    assert caught.value.problem == (
        f'The config of "my-model" has {path} = {value!r}, expected a whole number from 1 to 16,777,216.'
    )
    assert caught.value.fix == "Save the checkpoint again with save_pretrained."


@pytest.mark.parametrize("value", [0, -1e-6, "1e-6", float("nan"), float("inf"), True])
@pytest.mark.parametrize("path", ["vision_config.layer_norm_eps", "text_config.rms_norm_eps", "text_config.rope_theta"])
def test_number_that_is_not_positive_is_refused(path: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(changed(path, value))
    assert caught.value.problem == f'The config of "my-model" has {path} = {value!r}, expected a number above 0.'


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vision_config.num_attention_heads", 15),
        ("text_config.num_key_value_heads", 3),
        ("text_config.head_dim", 63),
        ("vision_config.patch_size", 385),
        ("text_config.num_attention_heads", 1000),
    ],
)
def test_sizes_that_do_not_divide_are_refused(path: str, value: int) -> None:
    with pytest.raises(CheckpointError, match=r"has widths and heads that do not divide\.$|do not divide\. Save"):
        read(changed(path, value))


@pytest.mark.parametrize("key", ["vision_config", "text_config"])
@pytest.mark.parametrize("value", [None, [], "x"])
def test_missing_section_is_named(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f'The config of "my-model" lacks "{key}"'):
        read(changed(key, value))


@pytest.mark.parametrize("value", ["linear", [1], 3])
def test_rotary_settings_that_are_no_object_are_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="has the rotary embedding"):
        read(changed("text_config.rope_scaling", value))


PATHS = [
    *(key for key in PUBLISHED),
    *(f"{section}.{key}" for section in ("vision_config", "text_config") for key in PUBLISHED[section]),
    *("vision_config.hidden_act", "text_config.rms_norm_eps", "text_config.rope_parameters", "text_config.head_dim"),
]
ANY = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=300)
@given(st.sampled_from(PATHS), ANY | st.dictionaries(st.sampled_from(["rope_type", "rope_theta", "type"]), ANY))
def test_any_value_of_any_key_is_read_or_refused(path: str, value: Any) -> None:
    try:
        found = read(changed(path, value))
    except StcError:
        return
    assert found.dims.vision.tokens >= 9


@pytest.mark.parametrize(
    ("architectures", "problem", "fix"),
    [
        (
            ["LlavaOnevisionForCausalLM"],
            '"my-model" is a LlavaOnevisionForCausalLM, which cannot be split yet.',
            'Did you mean "LlavaOnevisionForConditionalGeneration"? Known: LlavaOnevisionForConditionalGeneration.',
        ),
        (
            ["BertModel"],
            '"my-model" is a BertModel, which cannot be split yet.',
            "Known: LlavaOnevisionForConditionalGeneration.",
        ),
        (None, 'The config of "my-model" names no architecture.', "Save the checkpoint with save_pretrained."),
        ([], 'The config of "my-model" names no architecture.', "Save the checkpoint with save_pretrained."),
        ("x", 'The config of "my-model" names no architecture.', "Save the checkpoint with save_pretrained."),
        ([1], 'The config of "my-model" names no architecture.', "Save the checkpoint with save_pretrained."),
    ],
)
def test_architecture_that_no_family_splits_is_refused(architectures: Any, problem: str, fix: str) -> None:
    with pytest.raises(StcError) as caught:
        find_family(changed("architectures", architectures), "my-model")
    assert (caught.value.problem, caught.value.fix) == (problem, fix)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (
            (
                "vision_tower.vision_model.encoder.layers.0.layer_norm1.bias",
                "model.vision_tower.encoder.layers.0.layer_norm1.bias",
                "model.vision_tower.vision_model.encoder.layers.0.layer_norm1.bias",
            ),
            "vision_tower.encoder.layers.0.layer_norm1.bias",
        ),
        (("language_model.model.norm.weight", "model.language_model.norm.weight"), "language_model.norm.weight"),
        (("language_model.lm_head.weight", "lm_head.weight"), "lm_head.weight"),
        (("model.image_newline", "image_newline"), "image_newline"),
        (("model.multi_modal_projector.linear_1.bias",), "multi_modal_projector.linear_1.bias"),
        (("model.something.else", "x.model.vision_tower.y"), None),
    ],
)
def test_canonical_name_is_the_same_for_every_layout(keys: tuple[str, ...], name: str | None) -> None:
    assert [canonical(key) for key in keys] == [name or key for key in keys]
    assert [canonical(canonical(key)) for key in keys] == [canonical(key) for key in keys]
