"""Random weights under which every layer does something, so that numeric checks can fail."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import nn

#: Standard deviation times sqrt(fan in), by the last module of a parameter's name. Queries and keys are large enough
#: for attention to prefer some tokens; what is added to the residual stream is small enough for it not to explode.
_GAINS = {
    "patch_embedding": 1.0,
    "q_proj": 1.6,
    "k_proj": 1.6,
    "out_proj": 0.7,
    "fc2": 0.7,
    "down_proj": 1.5,
    "linear_2": 0.3,
}
_BIAS_STD = 0.2
#: Filters over pixels are [out, in, height, width], and are interpolated from a grid of this side.
_FILTER_DIMS = 4
_FILTER_GRID = 3
_POSITION_STD = 0.5
_EMBEDDING_GAIN = 4.0


def fill_weights(model: nn.Module, seed: int) -> None:
    """Overwrite every parameter with random values: norms around 1, biases unlike 0, matrices scaled by their fan in.

    Args:
        model: Any of the transformers models that the families know.
        seed: The same seed gives the same values.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            parameter.copy_(random_values(name, parameter, generator))


def random_values(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return float32 values for a parameter, of which only the shape is looked at."""
    mean, std = distribution(name, parameter)
    return mean + std * _noise(parameter, generator)


def _noise(parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal values; filters over pixels are smooth, as trained ones are, or they would see sensor noise."""
    if parameter.dim() != _FILTER_DIMS:
        return torch.randn(parameter.shape, generator=generator)
    coarse = torch.randn(*parameter.shape[:2], _FILTER_GRID, _FILTER_GRID, generator=generator)
    smooth = functional.interpolate(coarse, size=parameter.shape[2:], mode="bilinear")
    return smooth / smooth.std()


def distribution(name: str, parameter: torch.Tensor) -> tuple[float, float]:
    """Return mean and standard deviation of a parameter, of which only name and shape are looked at."""
    path, _, kind = name.rpartition(".")
    module = path.rpartition(".")[2]
    if path.endswith("language_model.norm"):
        return 0.0, 1.0  # without a sign of its own, tied embeddings would only repeat the last token
    if "norm" in module:
        return (1.0, 0.2) if kind == "weight" else (0.0, 0.1)
    if kind == "bias":
        return 0.0, _BIAS_STD
    if module == "position_embedding":
        return 0.0, _POSITION_STD
    if module in {"embed_tokens", "lm_head"} or kind == "image_newline":
        return 0.0, _EMBEDDING_GAIN / math.sqrt(parameter.shape[-1])
    fan_in = parameter[0].numel()
    return 0.0, _GAINS.get(module, 1.0) / math.sqrt(fan_in)
