"""The model of a bundle as transformers has it, over the very weights of the bundle: what users would run instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stc_export.demo.checkpoint import model_config
from stc_export.exporter.graphs import GraphForm
from stc_export.exporter.weights import WeightRecipe, layout
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.weights import weight_files
from stc_export.spec.dims import ModelDims

#: Normalisation of pixels; it does not change what a model computes from patch embeddings.
PIXELS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def llava_config(dims: ModelDims) -> LlavaConfig:
    """Return what the checkpoints of :mod:`shapes` say beside their sizes."""
    return LlavaConfig(
        dims=dims,
        vision_eps=1e-6,
        text_eps=1e-6,
        projector_act="gelu",
        projector_bias=True,
        vision_act="gelu_pytorch_tanh",
        tied=True,
        trained=False,
    )


def open_original(bundle: Path, dims: ModelDims) -> Any:
    """Return the ``LlavaOnevisionModel`` whose weights are those of a bundle in fp32, read from its files as needed.

    Args:
        bundle: Bundle of a checkpoint of :mod:`shapes`.
        dims: Its sizes.
    """
    from transformers import LlavaOnevisionModel

    with torch.device("meta"):
        model = LlavaOnevisionModel(model_config(dims)).eval()
    model.vision_tower.post_layernorm = torch.nn.Identity()  # the LLM sees what comes before it: a bundle has none
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tensors = {
        name: torch.from_numpy(value)
        for file, recipes in weight_files(llava_config(dims), GraphForm("base", "float32", 0), PIXELS).items()
        for name, value in _tensors(bundle / "graphs" / file, recipes, shapes)
    }
    model.load_state_dict(tensors, strict=True, assign=True)
    _make_tables(model)
    return model.requires_grad_(requires_grad=False)


def _tensors(
    file: Path, recipes: tuple[WeightRecipe, ...], shapes: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Take apart what the export joined: name and values of each tensor of the checkpoint."""
    data = np.memmap(file, np.float32, mode="c")
    places = layout(file.name, recipes)
    for recipe in (recipe for recipe in recipes if recipe.sources):
        start = places[recipe.name].offset // 4
        stored = data[start : start + places[recipe.name].length // 4].reshape(recipe.shape)
        if recipe.permute:
            stored = stored.transpose(np.argsort(recipe.permute))
        ends = np.cumsum([shapes[name][0] for name in recipe.sources])
        yield from zip(recipe.sources, np.split(stored, ends[:-1]), strict=True)


def _make_tables(model: Any) -> None:
    """Compute what a checkpoint does not hold, and what the meta device therefore left empty."""
    rotary, embeddings = model.language_model.rotary_emb, model.vision_tower.embeddings
    model.language_model.rotary_emb = type(rotary)(rotary.config)
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
