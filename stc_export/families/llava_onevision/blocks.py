"""Layers that all graphs share, in the form in which they are exported.

Weights are [out, in] as in the checkpoint, activations are two-dimensional [tokens, width], so that every linear layer
is one ONNX ``Gemm`` with ``transB`` and nothing is transposed on disk, at load time or at run time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

#: Activations by the names of transformers' configs.
ACTIVATIONS: dict[str, str] = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}


class Linear(nn.Module):
    """x [N, in] -> [N, out]."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: Any) -> None:
        """Create the layer without initialising it."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        return F.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """Layer norm over the last axis with float32 statistics and weights whatever the graph's precision."""

    def __init__(self, width: int, eps: float) -> None:
        """Create the layer without initialising it."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, decomposed, with float32 statistics and weights."""

    def __init__(self, width: int, eps: float) -> None:
        """Create the layer without initialising it."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        wide = x.float()
        scale = torch.rsqrt((wide * wide).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


def put_rows(target: Any, rows: Any, values: Any) -> Any:
    """Return ``target`` [N, W] with ``values`` [R, W] at ``rows`` [R] int64; exports to one ``ScatterND``."""
    return target.index_put((rows,), values)


def take_rows(source: Any, rows: Any) -> Any:
    """Return ``source`` [N, W] at ``rows`` [R] int64; exports to one ``Gather``."""
    return source.index_select(0, rows)
