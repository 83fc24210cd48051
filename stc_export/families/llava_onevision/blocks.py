"""Layers that all graphs share, in the form in which they are exported.

Weights are [out, in] as in the checkpoint, activations are two-dimensional [tokens, width], so that every linear layer
is one ONNX ``Gemm`` with ``transB`` and nothing is transposed on disk, at load time or at run time.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """Root-mean-square norm over the last axis with float32 statistics and weights."""

    def __init__(self, width: int, eps: float, norm: Callable[[Any, Any, float], Any]) -> None:
        """Create the layer without initialising it; ``norm`` is one of the two below."""
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.eps = eps

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        return self.norm(x.float(), self.weight, self.eps).to(x.dtype)


def rms_norm_steps(x: Any, weight: Any, eps: float) -> Any:
    """Root-mean-square norm of float32 rows, decomposed."""
    # Pow, Sqrt and Div, not a product with rsqrt: the form that ONNX Runtime fuses into one operator.
    return x / torch.sqrt(torch.pow(x, 2.0).mean(-1, keepdim=True) + eps) * weight


def rms_norm(x: Any, weight: Any, eps: float) -> Any:
    """Root-mean-square norm of float32 rows, one ``RMSNormalization``."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def gelu(x: Any, approximate: str) -> Any:
    """GELU; the tanh form is written out so that ONNX Runtime fuses its eight operators into one."""
    if approximate == "none":
        return F.gelu(x)
    inner = (0.7978845608028654 * x) * (0.044715 * x * x + 1.0)
    return (0.5 * x) * (torch.tanh(inner) + 1.0)


def put_rows(target: Any, rows: tuple[Any, ...], values: Any) -> Any:
    """Return ``target`` with ``values`` at ``rows``; exports to one ``ScatterND``, which can write in place.

    Args:
        target: [N, W], or [heads, N, W].
        rows: int64 indices of the leading axes, all of one shape: [R], or [heads, R] and [heads, R].
        values: [R, W], or [heads, R, W].
    """
    return target.index_put(rows, values)


def take_rows(source: Any, rows: Any) -> Any:
    """Return ``source`` [N, W] at ``rows`` [R] int64; exports to one ``Gather``."""
    return source.index_select(0, rows)
