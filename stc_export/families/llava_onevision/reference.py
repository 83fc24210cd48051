"""The checkpoint in transformers' own classes, as the independent reference of parity checks.

Only the sampled layers are built and read, and a matrix is converted to float32 when it is used, so that a large
checkpoint can be checked in little memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from stc_export.exporter.checkpoint import Checkpoint
from stc_export.families.base import LayerSample

_EMBEDDINGS = "model.language_model.embed_tokens.weight"


def load_reference(checkpoint: Checkpoint, sample: LayerSample) -> Any:
    """Return a ``LlavaOnevisionForConditionalGeneration`` with the sampled layers that computes in float32 on the CPU.

    Layer i of the result is layer ``sample.vision[i]`` or ``sample.text[i]`` of the checkpoint. The embedding table is
    loaded only where it is also the output layer.
    """
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    raw = copy.deepcopy(dict(checkpoint.config))
    raw["vision_config"]["num_hidden_layers"] = len(sample.vision)
    raw["text_config"]["num_hidden_layers"] = len(sample.text)
    raw["text_config"].pop("layer_types", None)
    raw["vision_feature_layer"] = -1
    raw["vision_config"]["vision_use_head"] = False  # the default is true; a checkpoint need not have one
    config = LlavaOnevisionConfig.from_dict(raw)
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(config).eval()
    names = {key: _source(key, sample) for key, _ in model.named_parameters(remove_duplicate=False)}
    if "lm_head.weight" in checkpoint.tensors:
        del names[_EMBEDDINGS]
    weights = {key: checkpoint.read(name) for key, name in names.items() if name in checkpoint.tensors}
    if "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights[_EMBEDDINGS]
    model.load_state_dict(weights, strict=False, assign=True)
    for module in model.modules():
        _widen(module)
    # Buffers that are not saved hold no data on the meta device; these two are computed again.
    model.model.language_model.rotary_emb = Qwen2RotaryEmbedding(config.text_config)
    model.model.vision_tower.post_layernorm = torch.nn.Identity()  # comes after what the LLM sees; need not be there
    embeddings = model.model.vision_tower.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return model


def _source(key: str, sample: LayerSample) -> str:
    name = key.removeprefix("model.")
    for prefix, layers in (("vision_tower.encoder.layers.", sample.vision), ("language_model.layers.", sample.text)):
        if name.startswith(prefix):
            number, rest = name[len(prefix) :].split(".", 1)
            return f"{prefix}{layers[int(number)]}.{rest}"
    return name


def _widen(module: nn.Module) -> None:
    """Let a module compute in float32: a matrix only while it is used."""
    own = dict(module.named_parameters(recurse=False))
    narrow = {name: value.data for name, value in own.items() if value.dtype != torch.float32 and not value.is_meta}
    if not isinstance(module, nn.Linear):
        for name, data in narrow.items():
            own[name].data = data.float()
    elif narrow:
        module.register_forward_pre_hook(lambda *_: _set(own, {name: data.float() for name, data in narrow.items()}))
        module.register_forward_hook(lambda *_: _set(own, narrow))


def _set(parameters: dict[str, nn.Parameter], values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        parameters[name].data = value
