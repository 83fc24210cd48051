"""Which tensors of a LLaVA-OneVision checkpoint make which stored weights.

Canonical names are those that ``save_pretrained`` of transformers 5 writes; :func:`canonical` maps the older layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stc_calib.schemes import Scheme
from stc_export.exporter.graphs import GraphForm
from stc_export.exporter.weights import WeightRecipe
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.projector import pooling_weights
from stc_export.spec.errors import UsageError
from stc_export.spec.manifest import DType

VISION, PROJECTOR, LLM, EMBED = "vision.weights", "projector.weights", "llm.weights", "embed.weights"
#: Where the output matrix lies if it is rounded; else with the decoder, or where it is the embedding table, there.
ROUNDED_HEAD = "head.weights"
#: The output matrix: a tensor of its own, or a part of the embeddings.
HEAD = "head.weight"
_HEAD_SOURCE, _EMBED_SOURCE = "lm_head.weight", "language_model.embed_tokens.weight"

_PREFIXES = (
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model."),
    ("model.image_newline", "image_newline"),
    ("vision_tower.vision_model.", "vision_tower."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "language_model."),
)


def canonical(key: str) -> str:
    """Map a tensor name of any known layout to the canonical one; unknown names stay as they are."""
    for old, new in _PREFIXES:
        if key.startswith(old):
            key = new + key[len(old) :]
    return key


def weight_files(
    config: LlavaConfig, form: GraphForm, pixels: tuple[tuple[float, ...], tuple[float, ...]]
) -> Mapping[str, tuple[WeightRecipe, ...]]:
    """Return all weight files with their recipes.

    Args:
        config: The checkpoint's sizes.
        form: Type of the large weights, and which are rounded to fewer bits; norms stay float32.
        pixels: Mean and standard deviation per channel for pixels in 0..1.

    Raises:
        UsageError: The embedding table is to be rounded, and the graph has it as its output matrix.
    """
    dtype = form.dtype
    return {
        VISION: (*_gate(config, dtype, pixels), *_vision(config, dtype, form.schemes.get("vit"))),
        PROJECTOR: _projector(config, dtype),
        LLM: (*_decoder(config, dtype, form.schemes.get("llm")), *(() if form.head else _head(config, dtype))),
        EMBED: _embed(config, dtype, form.embed, shared=config.tied and form.head is None),
        **({ROUNDED_HEAD: _rounded_head(config, dtype, form.head)} if form.head else {}),
    }


def _gate(
    config: LlavaConfig, dtype: DType, pixels: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[WeightRecipe, ...]:
    vision = config.dims.vision
    patch, mean, std = vision.patch_size, np.array(pixels[0]), np.array(pixels[1])
    source = "vision_tower.embeddings.patch_embedding"
    return (
        # The convolution with stride = kernel is a product over flattened H, W, channel patches.
        WeightRecipe(
            "projection.weight", dtype, (vision.width, patch, patch, 3), (f"{source}.weight",), permute=(0, 2, 3, 1)
        ),
        WeightRecipe("projection.bias", dtype, (vision.width,), (f"{source}.bias",)),
        _per_pixel("scale", 1.0 / (255.0 * std), patch),
        _per_pixel("offset", -mean / std, patch),
    )


def _per_pixel(name: str, channels: NDArray[np.float64], patch: int) -> WeightRecipe:
    """Return a recipe of values [3] that are the same for every pixel of a patch."""
    values = np.tile(channels.astype(np.float32), patch * patch)
    return WeightRecipe(name, "float32", values.shape, values=values)


def _vision(config: LlavaConfig, dtype: DType, scheme: Scheme | None) -> tuple[WeightRecipe, ...]:
    vision = config.dims.vision
    width = vision.width
    rows: list[WeightRecipe] = [
        WeightRecipe("position", dtype, (vision.tokens, width), ("vision_tower.embeddings.position_embedding.weight",))
    ]
    for i in range(vision.layers):
        layer, name, mlp = f"vision_tower.encoder.layers.{i}", f"layers.{i}", vision.mlp_width
        # Order q, v, k: the first two thirds serve the selections that project keys for other tokens than q and v.
        qvk = tuple(f"{layer}.self_attn.{p}_proj" for p in "qvk")
        for row in _linear(f"{name}.qvk", dtype, (3 * width, width), qvk, scheme):
            kind = row.name.rpartition(".")[2]
            parts = {f"{name}.qv.{kind}": (0, 2 * width), f"{name}.k.{kind}": (2 * width, width)}
            rows.append(replace(row, parts=parts))
        rows += _linear(f"{name}.out", dtype, (width, width), (f"{layer}.self_attn.out_proj",), scheme)
        rows += _linear(f"{name}.fc1", dtype, (mlp, width), (f"{layer}.mlp.fc1",), scheme)
        rows += _linear(f"{name}.fc2", dtype, (width, mlp), (f"{layer}.mlp.fc2",), scheme)
        for norm in ("1", "2"):
            for kind in ("weight", "bias"):
                source = f"{layer}.layer_norm{norm}.{kind}"
                rows.append(WeightRecipe(f"{name}.norm{norm}.{kind}", "float32", (width,), (source,)))
    return tuple(rows)


def _linear(
    name: str, dtype: DType, shape: tuple[int, int], sources: tuple[str, ...], scheme: Scheme | None
) -> tuple[WeightRecipe, WeightRecipe]:
    """Weight [out, in], rounded if there is a scheme, and bias [out] of a layer."""
    weights, biases = (tuple(f"{source}.{kind}" for source in sources) for kind in ("weight", "bias"))
    weight = WeightRecipe(f"{name}.weight", dtype, shape, weights, scheme=scheme)
    return weight, WeightRecipe(f"{name}.bias", dtype, shape[:1], biases)


def _projector(config: LlavaConfig, dtype: DType) -> tuple[WeightRecipe, ...]:
    vision, text = config.dims.vision, config.dims.text
    rows = [WeightRecipe("pooling", dtype, (vision.pooled_grid, vision.grid), values=pooling_weights(vision.grid))]
    for name, inputs in (("linear_1", vision.width), ("linear_2", text.width)):
        source = f"multi_modal_projector.{name}"
        rows.append(WeightRecipe(f"{name}.weight", dtype, (text.width, inputs), (f"{source}.weight",)))
        if config.projector_bias:
            rows.append(WeightRecipe(f"{name}.bias", dtype, (text.width,), (f"{source}.bias",)))
    return tuple(rows)


def _decoder(config: LlavaConfig, dtype: DType, scheme: Scheme | None) -> tuple[WeightRecipe, ...]:
    text = config.dims.text
    fused = (text.heads + 2 * text.kv_heads) * text.head_dim
    half = np.arange(0, text.head_dim, 2, dtype=np.float32) / np.float32(text.head_dim)
    inv_freq = (1.0 / np.power(np.float32(text.rope_theta), half)).astype(np.float32)
    rows = [
        WeightRecipe("inv_freq", "float32", inv_freq.shape, values=inv_freq),
        WeightRecipe("norm.weight", "float32", (text.width,), ("language_model.norm.weight",)),
    ]
    for i in range(text.layers):
        layer = f"language_model.layers.{i}"
        q_width, mlp = text.heads * text.head_dim, text.mlp_width
        attention, gate, up = f"{layer}.self_attn", f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight"
        weights, biases = (tuple(f"{attention}.{p}_proj.{kind}" for p in "qkv") for kind in ("weight", "bias"))
        rows += [
            WeightRecipe(f"layers.{i}.qkv.weight", dtype, (fused, text.width), weights, scheme=scheme),
            WeightRecipe(f"layers.{i}.qkv.bias", dtype, (fused,), biases),
            WeightRecipe(
                f"layers.{i}.out.weight", dtype, (text.width, q_width), (f"{attention}.o_proj.weight",), scheme=scheme
            ),
            WeightRecipe(f"layers.{i}.gate_up.weight", dtype, (2 * mlp, text.width), (gate, up), scheme=scheme),
            WeightRecipe(
                f"layers.{i}.down.weight", dtype, (text.width, mlp), (f"{layer}.mlp.down_proj.weight",), scheme=scheme
            ),
            WeightRecipe(f"layers.{i}.norm1.weight", "float32", (text.width,), (f"{layer}.input_layernorm.weight",)),
            WeightRecipe(
                f"layers.{i}.norm2.weight", "float32", (text.width,), (f"{layer}.post_attention_layernorm.weight",)
            ),
        ]
    return tuple(rows)


def _head(config: LlavaConfig, dtype: DType) -> tuple[WeightRecipe, ...]:
    """The output matrix, unless it is the embedding table."""
    shape = (config.dims.text.vocab, config.dims.text.width)
    return () if config.tied else (WeightRecipe(HEAD, dtype, shape, (_HEAD_SOURCE,)),)


def _rounded_head(config: LlavaConfig, dtype: DType, scheme: Scheme) -> tuple[WeightRecipe, ...]:
    """The output matrix in few bits, of its own even if the embedding table has the same values."""
    shape = (config.dims.text.vocab, config.dims.text.width)
    return (WeightRecipe(HEAD, dtype, shape, (_EMBED_SOURCE if config.tied else _HEAD_SOURCE,), scheme=scheme),)


def _embed(config: LlavaConfig, dtype: DType, scheme: Scheme | None, *, shared: bool) -> tuple[WeightRecipe, ...]:
    """The tables of the host; ``shared``: the graph uses one of them as its output matrix."""
    text = config.dims.text
    if shared and scheme is not None:
        raise UsageError(
            "The output matrix of this model is its embedding table, which the graph reads as it is.",
            "Round both, for example with --precision int4,embed=int8 --head int4, or leave embed out.",
        )
    parts = {HEAD: (0, text.vocab)} if shared else None
    return (
        WeightRecipe("embed", dtype, (text.vocab, text.width), (_EMBED_SOURCE,), parts=parts, scheme=scheme),
        WeightRecipe("newline", dtype, (text.width,), ("image_newline",)),
    )
