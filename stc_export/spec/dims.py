"""Sizes of a model, with the letters that every shape in this project uses.

B batch, F frames, T ViT tokens per frame, R recomputed tokens, M visual tokens per frame after pooling, K kept tokens
per frame, P past KV length, S new tokens, C ViT width, D LLM width, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionDims:
    """The vision transformer.

    Attributes:
        image_size: Side of the square input in pixels.
        patch_size: Side of a patch in pixels.
        width: C.
        mlp_width: Hidden width of the MLP.
        heads: Attention heads.
        layers: Layers that are run, counted up to the one whose output the LLM sees.
    """

    image_size: int
    patch_size: int
    width: int
    mlp_width: int
    heads: int
    layers: int

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """T."""
        return self.grid * self.grid

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def pooled_grid(self) -> int:
        """Visual tokens along one side after the 2x2 bilinear pooling."""
        return (self.grid + 1) // 2

    @property
    def visual_tokens(self) -> int:
        """M."""
        return self.pooled_grid * self.pooled_grid


@dataclass(frozen=True)
class TextDims:
    """The language model.

    Attributes:
        width: D.
        mlp_width: Hidden width of the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        layers: Decoder layers.
        vocab: Rows of the embedding table.
        context: Positions that the model was trained for.
        rope_theta: Base of the rotary embedding.
    """

    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocab: int
    context: int
    rope_theta: float


@dataclass(frozen=True)
class ModelDims:
    """All sizes of a split model."""

    vision: VisionDims
    text: TextDims
