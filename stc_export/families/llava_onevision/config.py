"""Read a LLaVA-OneVision ``config.json`` into the numbers that the graphs need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.errors import CheckpointError, UnsupportedError

#: Defaults that transformers leaves out of ``config.json`` when they are unchanged (SiglipVisionConfig, Qwen2Config).
_VISION_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_TEXT_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "vocab_size": 151936,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
}


@dataclass(frozen=True)
class LlavaConfig:
    """Everything about a checkpoint that decides what its graphs look like.

    Attributes:
        dims: Sizes.
        vision_eps: Epsilon of the ViT's layer norms.
        text_eps: Epsilon of the LLM's RMS norms.
        projector_act: Activation between the projector's linear layers: ``gelu`` or ``gelu_pytorch_tanh``.
        projector_bias: Whether the projector's linear layers have a bias.
        vision_act: Activation of the ViT's MLP.
        tied: Whether the output layer is the embedding table.
        trained: False when the checkpoint says that its weights are random (``stc_trained``).
    """

    dims: ModelDims
    vision_eps: float
    text_eps: float
    projector_act: str
    projector_bias: bool
    vision_act: str
    tied: bool
    trained: bool


def config_from_json(config: Mapping[str, Any], source: str) -> LlavaConfig:
    """Check and read a config; ``source`` names the checkpoint in errors.

    Raises:
        CheckpointError: A value is missing or impossible.
        UnsupportedError: The checkpoint uses a part that the family does not export yet.
    """
    vision = {**_VISION_DEFAULTS, **_section(config, "vision_config", source)}
    text = {**_TEXT_DEFAULTS, **_section(config, "text_config", source)}
    _check_supported(config, vision, text, source)
    try:
        dims = ModelDims(_vision_dims(vision, int(config.get("vision_feature_layer", -1))), _text_dims(text))
        _check_dims(dims, source)
        return LlavaConfig(
            dims=dims,
            vision_eps=float(vision["layer_norm_eps"]),
            text_eps=float(text["rms_norm_eps"]),
            projector_act=str(config.get("projector_hidden_act", "gelu")),
            projector_bias=bool(config.get("multimodal_projector_bias", True)),
            vision_act=str(vision["hidden_act"]),
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            trained=bool(config.get("stc_trained", True)),
        )
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f'The config of "{source}" has a value of the wrong type ({error}).', _REPAIR) from error


_REPAIR = "Save the checkpoint again with save_pretrained."


def _section(config: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    section = config.get(key)
    if not isinstance(section, Mapping):
        raise CheckpointError(f'The config of "{source}" lacks "{key}".', _REPAIR)
    return section


def _check_supported(
    config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], source: str
) -> None:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    wanted: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("vision_config.model_type", vision.get("model_type"), ("siglip_vision_model",)),
        ("text_config.model_type", text.get("model_type"), ("qwen2",)),
        ("vision_config.hidden_act", vision["hidden_act"], ("gelu_pytorch_tanh", "gelu")),
        ("text_config.hidden_act", text["hidden_act"], ("silu",)),
        ("projector_hidden_act", config.get("projector_hidden_act", "gelu"), ("gelu", "gelu_pytorch_tanh")),
        ("vision_feature_select_strategy", config.get("vision_feature_select_strategy", "full"), ("full",)),
        ("text_config.rope_type", rope_type, ("default",)),
        ("text_config.use_sliding_window", text["use_sliding_window"], (False,)),
        ("vision_config.num_channels", vision["num_channels"], (3,)),
    )
    for key, value, supported in wanted:
        if value not in supported:
            choices = " or ".join(repr(s) for s in supported)
            raise UnsupportedError(
                f'"{source}" has {key} = {value!r}; llava_onevision exports {choices}.',
                "Use a checkpoint of that form.",
            )
    if not isinstance(config.get("vision_feature_layer", -1), int):
        raise UnsupportedError(
            f'"{source}" concatenates the ViT layers {config["vision_feature_layer"]}; one layer is exported.',
            "Use a checkpoint whose vision_feature_layer is a single number.",
        )


def _vision_dims(vision: Mapping[str, Any], feature_layer: int) -> VisionDims:
    layers = int(vision["num_hidden_layers"])
    # hidden_states[0] is the embedding, hidden_states[i] the output of layer i.
    used = feature_layer if feature_layer >= 0 else layers + 1 + feature_layer
    return VisionDims(
        image_size=int(vision["image_size"]),
        patch_size=int(vision["patch_size"]),
        width=int(vision["hidden_size"]),
        mlp_width=int(vision["intermediate_size"]),
        heads=int(vision["num_attention_heads"]),
        layers=used if used <= layers else -1,
    )


def _text_dims(text: Mapping[str, Any]) -> TextDims:
    rope = text.get("rope_parameters") or {}
    heads = int(text["num_attention_heads"])
    head_dim = text.get("head_dim")
    return TextDims(
        width=int(text["hidden_size"]),
        mlp_width=int(text["intermediate_size"]),
        heads=heads,
        kv_heads=int(text["num_key_value_heads"]),
        head_dim=int(head_dim) if head_dim is not None else int(text["hidden_size"]) // heads,
        layers=int(text["num_hidden_layers"]),
        vocab=int(text["vocab_size"]),
        context=int(text["max_position_embeddings"]),
        rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 10000.0))),
    )


def _check_dims(dims: ModelDims, source: str) -> None:
    v, t = dims.vision, dims.text
    positive = {
        "vision_config.image_size": v.image_size,
        "vision_config.patch_size": v.patch_size,
        "vision_config.hidden_size": v.width,
        "vision_config.intermediate_size": v.mlp_width,
        "vision_config.num_attention_heads": v.heads,
        "vision_feature_layer (layers that are run)": v.layers,
        "text_config.hidden_size": t.width,
        "text_config.intermediate_size": t.mlp_width,
        "text_config.num_attention_heads": t.heads,
        "text_config.num_key_value_heads": t.kv_heads,
        "text_config.head_dim": t.head_dim,
        "text_config.num_hidden_layers": t.layers,
        "text_config.vocab_size": t.vocab,
        "text_config.max_position_embeddings": t.context,
    }
    for key, value in positive.items():
        if not 1 <= value <= 1 << 24:
            raise CheckpointError(f'The config of "{source}" has {key} = {value}, which is not possible.', _REPAIR)
    if v.width % v.heads or t.heads % t.kv_heads or v.patch_size > v.image_size or t.head_dim % 2:
        raise CheckpointError(f'The config of "{source}" has widths and heads that do not divide.', _REPAIR)
    if v.tokens > 3840:  # TensorRT's limit for TopK, and more than any SigLIP has
        raise UnsupportedError(
            f'"{source}" has {v.tokens} ViT tokens per frame; at most 3,840 are exported.',
            "Use a smaller image size or a larger patch.",
        )
