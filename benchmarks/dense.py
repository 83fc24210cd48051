"""The ViT without any cache, for whole batches: the baseline that a cacher has to beat. Not part of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from original import PIXELS, llava_config

from stc_export.exporter.graphs import DimRange, GraphDef, GraphForm, graph_entry
from stc_export.exporter.trace import trace
from stc_export.exporter.weights import layout
from stc_export.families.llava_onevision.attention import vision_steps
from stc_export.families.llava_onevision.config import LlavaConfig
from stc_export.families.llava_onevision.vision import EncoderParts, VisionEncoder
from stc_export.families.llava_onevision.weights import VISION, weight_files
from stc_export.pipeline.bench.series import timed_ms
from stc_export.spec.dims import ModelDims
from stc_export.spec.interface import Interface
from stc_export.spec.manifest import TensorSpec
from stc_runtime.backends.base import Backend


class DenseEncoder(VisionEncoder):
    """All tokens of B frames through all layers."""

    def __init__(self, config: LlavaConfig, dtype: Any) -> None:
        super().__init__(config, dtype, EncoderParts(vision_steps), keys_apart=False)

    def forward(self, patch_embeddings: Any) -> Any:
        """Patch embeddings [B, T, C] -> features [B, T, C]."""
        shape = (-1, self.tokens, 3 * self.heads, self.width // self.heads)
        x = (patch_embeddings + self.position).flatten(0, 1)
        for layer in self.layers:
            q, v, k = layer.qvk(layer.norm1(x)).reshape(shape).transpose(1, 2).split(self.heads, dim=1)
            weights = torch.softmax(torch.matmul(q * layer.head_dim**-0.5, k.transpose(2, 3)), dim=-1)
            x = x + layer.out(torch.matmul(weights, v).transpose(1, 2).reshape(-1, self.width))
            x = x + layer.mlp(x)
        return x.unflatten(0, (-1, self.tokens))


class DenseVit:
    """An engine of the dense ViT over the weights of a bundle.

    Args:
        bundle: Bundle in fp32; the graph is written next to its graphs, once.
        dims: Its sizes.
        backend: What executes the graph.

    Attributes:
        path: The graph.
    """

    def __init__(self, bundle: Path, dims: ModelDims, backend: Backend) -> None:
        config = llava_config(dims)
        graph = _graph(config)
        self.path = bundle / graph.file
        if not self.path.exists():
            stored = {VISION: layout(VISION, weight_files(config, GraphForm("base", "float32", 0), PIXELS)[VISION])}
            partial = bundle / "graphs" / "dense.partial"
            trace(graph, stored, partial)
            partial.rename(self.path)
        entry = graph_entry(graph, graph.file, (f"graphs/{VISION}",), "fp32")
        self._engine = backend.open(bundle, entry)

    def run(self, embeddings: NDArray[Any]) -> NDArray[Any]:
        """Patch embeddings [B, T, C] -> features [B, T, C]."""
        return self._engine.run({"patch_embeddings": embeddings}, {})["features"]

    def step(self, embeddings: list[NDArray[Any]], batch: int) -> Callable[[int], float]:
        """Return what encodes ``batch`` frames, the i-th and those after it, and gives the milliseconds per frame."""
        count = len(embeddings)

        def run(index: int) -> float:
            frames = np.stack([embeddings[(index + offset) % count] for offset in range(batch)])
            return timed_ms(lambda: self.run(frames)) / batch

        return run


def _graph(config: LlavaConfig) -> GraphDef:
    shape = ("B", config.dims.vision.tokens, config.dims.vision.width)
    return GraphDef(
        role="vit",
        variant="dense",
        module=lambda: DenseEncoder(config, torch.float32),
        interface=Interface(
            (TensorSpec("patch_embeddings", "float32", shape),), (TensorSpec("features", "float32", shape),)
        ),
        nest=tuple,
        dims={"B": DimRange(1, 64, 3)},
        weight_files=(VISION,),
    )
