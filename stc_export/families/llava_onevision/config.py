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
    vision = _section(config, "vision_config", _VISION_DEFAULTS, source)
    text = _section(config, "text_config", _TEXT_DEFAULTS, source)
    _check_supported(config, vision, text)
    dims = ModelDims(_vision_dims(vision, config.get("vision_feature_layer", -1)), _text_dims(text))
    _check_dims(dims, source)
    return LlavaConfig(
        dims=dims,
        vision_eps=vision.positive("layer_norm_eps"),
        text_eps=text.positive("rms_norm_eps"),
        projector_act=str(config.get("projector_hidden_act", "gelu")),
        projector_bias=bool(config.get("multimodal_projector_bias", True)),
        vision_act=str(vision.values["hidden_act"]),
        # Either is enough: the published 0.5B checkpoint says false for the whole and true for the text model.
        tied=bool(config.get("tie_word_embeddings")) or bool(text.values.get("tie_word_embeddings")),
        trained=bool(config.get("stc_trained", True)),
    )


_REPAIR = "Save the checkpoint again with save_pretrained."
#: Nothing in a config is larger: widths, counts, rows of a vocabulary.
_MOST = 1 << 24
#: And no model has more layers, each of which has tensors of its own.
_MOST_LAYERS = 1 << 10


@dataclass(frozen=True)
class _Section:
    """A part of a config with the defaults filled in; values are checked as they are read."""

    name: str
    values: Mapping[str, Any]
    source: str

    def whole(self, key: str, most: int = _MOST) -> int:
        value = self.values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
            return value
        raise self._impossible(key, f"a whole number from 1 to {most:,}")

    def positive(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e30:
            return float(value)
        raise self._impossible(key, "a number above 0")

    def _impossible(self, key: str, expected: str) -> CheckpointError:
        value = _shown(self.values.get(key))
        return CheckpointError(
            f'The config of "{self.source}" has {self.name}.{key} = {value}, expected {expected}.', _REPAIR
        )


def _shown(value: object) -> str:
    return repr(value)[:60]


def _section(config: Mapping[str, Any], key: str, defaults: Mapping[str, Any], source: str) -> _Section:
    section = config.get(key)
    if not isinstance(section, Mapping):
        raise CheckpointError(f'The config of "{source}" lacks "{key}".', _REPAIR)
    return _Section(key, {**defaults, **section}, source)


def _rope(text: _Section) -> Mapping[str, Any]:
    """Return the settings of the rotary embedding: ``rope_parameters``, or ``rope_scaling`` in older configs."""
    rope = text.values.get("rope_parameters") or text.values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(
            f'The config of "{text.source}" has the rotary embedding {_shown(rope)}, expected an object.', _REPAIR
        )
    return rope


def _check_supported(config: Mapping[str, Any], vision: _Section, text: _Section) -> None:
    rope = _rope(text)
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    wanted: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("vision_config.model_type", vision.values.get("model_type"), ("siglip_vision_model",)),
        ("text_config.model_type", text.values.get("model_type"), ("qwen2",)),
        ("vision_config.hidden_act", vision.values["hidden_act"], ("gelu_pytorch_tanh", "gelu")),
        ("text_config.hidden_act", text.values["hidden_act"], ("silu",)),
        ("projector_hidden_act", config.get("projector_hidden_act", "gelu"), ("gelu", "gelu_pytorch_tanh")),
        ("vision_feature_select_strategy", config.get("vision_feature_select_strategy", "full"), ("full",)),
        ("text_config.rope_type", rope_type, ("default",)),
        ("text_config.use_sliding_window", text.values["use_sliding_window"], (False,)),
        ("vision_config.num_channels", vision.values["num_channels"], (3,)),
    )
    for key, value, supported in wanted:
        if value not in supported:
            choices = " or ".join(repr(s) for s in supported)
            raise UnsupportedError(
                f'"{text.source}" has {key} = {_shown(value)}; llava_onevision exports {choices}.',
                "Use a checkpoint of that form.",
            )
    layer = config.get("vision_feature_layer", -1)
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise UnsupportedError(
            f'"{text.source}" has vision_feature_layer = {_shown(layer)}; the output of one layer is exported.',
            "Use a checkpoint whose vision_feature_layer is a single number.",
        )


def _vision_dims(vision: _Section, feature_layer: int) -> VisionDims:
    layers = vision.whole("num_hidden_layers", _MOST_LAYERS)
    # hidden_states[0] is the embedding, hidden_states[i] the output of layer i.
    used = feature_layer if feature_layer >= 0 else layers + 1 + feature_layer
    if not 1 <= used <= layers:
        raise CheckpointError(
            f'The config of "{vision.source}" has vision_feature_layer = {_shown(feature_layer)}, but the ViT has '
            f"{layers} layers.",
            _REPAIR,
        )
    return VisionDims(
        image_size=vision.whole("image_size"),
        patch_size=vision.whole("patch_size"),
        width=vision.whole("hidden_size"),
        mlp_width=vision.whole("intermediate_size"),
        heads=vision.whole("num_attention_heads"),
        layers=used,
    )


def _text_dims(text: _Section) -> TextDims:
    heads, width = text.whole("num_attention_heads"), text.whole("hidden_size")
    theta = _rope(text).get("rope_theta", text.values.get("rope_theta", 10000.0))
    return TextDims(
        width=width,
        mlp_width=text.whole("intermediate_size"),
        heads=heads,
        kv_heads=text.whole("num_key_value_heads"),
        head_dim=text.whole("head_dim") if text.values.get("head_dim") is not None else width // heads,
        layers=text.whole("num_hidden_layers", _MOST_LAYERS),
        vocab=text.whole("vocab_size"),
        context=text.whole("max_position_embeddings"),
        rope_theta=_Section(text.name, {"rope_theta": theta}, text.source).positive("rope_theta"),
    )


def _check_dims(dims: ModelDims, source: str) -> None:
    v, t = dims.vision, dims.text
    divide = v.width % v.heads == 0 and t.heads % t.kv_heads == 0 and t.head_dim % 2 == 0 and t.head_dim > 0
    if not divide or v.patch_size > v.image_size:
        raise CheckpointError(f'The config of "{source}" has widths and heads that do not divide.', _REPAIR)
    # 3,840 is TensorRT's limit for TopK, and more than any SigLIP has. Below 9 there is nothing to select.
    if not 9 <= v.tokens <= 3840:
        raise UnsupportedError(
            f'"{source}" has {v.tokens} ViT tokens per frame; 9 to 3,840 are exported.',
            "Use another image or patch size.",
        )
    if t.context < 64:
        raise UnsupportedError(
            f'"{source}" has a context of {t.context} tokens; at least 64 are needed for a stream.',
            "Use a checkpoint with a longer context.",
        )
