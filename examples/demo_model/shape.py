"""The demo model before training, and what its LLM sees."""

from __future__ import annotations

from typing import Any

import torch

from stc_export.demo.checkpoint import demo_dims, model_config

DIMS = demo_dims()
SEED = 0


def new_model() -> Any:
    """Return a ``LlavaOnevisionForConditionalGeneration`` with random weights in float32."""
    from transformers import LlavaOnevisionForConditionalGeneration

    torch.manual_seed(SEED)
    model = LlavaOnevisionForConditionalGeneration(model_config(DIMS))
    torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=0.1)
    torch.nn.init.normal_(model.model.image_newline, std=0.02)
    return model


def visual_tokens(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return what the LLM sees of each frame: float32 [B, M, D] from pixels [B, 3, H, W]."""
    hidden = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    return model.model.apply_pooling(model.model.multi_modal_projector(hidden))
