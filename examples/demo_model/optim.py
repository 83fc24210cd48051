"""Optimizers and learning rate."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch

#: Coefficients of the iteration that makes a matrix nearly orthogonal (Jordan et al., 2024), and how often it runs.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made nearly orthogonal (Jordan et al., "Muon", 2024), for matrices.

    The same as ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, but in float32 and for all matrices of a
    shape at once: on a CPU the former, in bfloat16 and one by one, takes a third of a training step.

    Args:
        parameters: Matrices.
        lr: As for AdamW.
        momentum: Of the Nesterov kind.
        weight_decay: Decoupled.
    """

    def __init__(self, parameters: list[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.02) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Any]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for matrices in shapes.values():
                self._step(matrices, group)

    def _step(self, matrices: list[Any], group: dict[str, Any]) -> None:
        updates = []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            state["momentum_buffer"].lerp_(matrix.grad, 1 - group["momentum"])
            updates.append(matrix.grad.lerp(state["momentum_buffer"], group["momentum"]))
        rate = group["lr"] * 0.2 * math.sqrt(max(matrices[0].shape))
        for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices with the same singular vectors and singular values near 1: float32 [N, a, b]."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def make_optimizers(modules: list[Any], rate: float) -> list[Any]:
    """Return Muon for the matrices of the layers, where it needs fewer steps, and AdamW for everything else."""
    matrices, others = [], []
    for module in modules:
        for name, parameter in module.named_parameters():
            in_layer = parameter.dim() == 2 and ".layers." in f".{name}"
            (matrices if in_layer else others).append(parameter)
    return [Muon(matrices, rate), torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98))]


def set_rate(optimizers: list[Any], rate: float, step: int, steps: int, warmup: int = 100) -> None:
    """Set the rate of a step: linear warm-up, constant for half of the steps, then down to 2 % along a cosine."""
    done = step / steps
    fall = 1.0 if done < 0.5 else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.5) / 0.5))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup) * fall
