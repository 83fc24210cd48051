"""The checkpoint in transformers' own classes, as the independent reference of parity checks.

Only sampled layers and outputs are built and read, and matrices are converted to float32 when they are used, so that
a large checkpoint can be checked in little memory.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from stc_export.exporter.checkpoint import Checkpoint
from stc_export.families.base import LayerSample
from stc_export.families.llava_onevision.narrow import compute_in_float32

_EMBEDDINGS = "model.language_model.embed_tokens.weight"


def load_reference(checkpoint: Checkpoint, sample: LayerSample) -> Any:
    """Return a ``LlavaOnevisionForConditionalGeneration`` with the sampled layers that computes in float32 on the CPU.

    Layer i of the result is layer ``sample.vision[i]`` or ``sample.text[i]`` of the checkpoint. The embedding table is
    not loaded, unless as the output layer where it is both.
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
    head = weights.pop("lm_head.weight" if "lm_head.weight" in weights else _EMBEDDINGS)
    model.load_state_dict(weights, strict=False, assign=True)
    model.lm_head.weight = torch.nn.Parameter(head[: sample.outputs], requires_grad=False)
    compute_in_float32(model)
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
