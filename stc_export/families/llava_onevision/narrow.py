"""Linear layers whose weights stay as they are stored, so that a large model computes in float32 in little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stc_export.families.llava_onevision.blocks import Linear

#: Rows of a weight are converted in blocks of about this size.
BLOCK_BYTES = 64 * 1024 * 1024


class NarrowLinear(nn.Module):
    """x float32 [..., in] -> float32 [..., out]; the weight is converted a block of rows at a time, and let go again.

    Args:
        weight: [out, in] in any floating point type, as it is mapped from a file.
        bias: [out] or nothing.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        rows = max(1, BLOCK_BYTES // (4 * self.weight.shape[1]))
        parts = [F.linear(x, block.float()) for block in self.weight.split(rows)]
        out = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return out if self.bias is None else out + self.bias


def compute_in_float32(module: nn.Module) -> None:
    """Let a module compute in float32 whatever it is stored as: matrices stay as they are, all else is converted."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear | Linear) and _is_narrow(child.weight):
                parent.register_module(name, NarrowLinear(child.weight.data, child.bias))
    for part in module.modules():
        if not isinstance(part, NarrowLinear):
            for value in part.parameters(recurse=False):
                if _is_narrow(value):
                    value.data = value.data.float()


def _is_narrow(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.dtype != torch.float32 and not value.is_meta
