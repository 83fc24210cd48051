"""Operators of ONNX that PyTorch does not have, as functions that run in PyTorch and export to one operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript.values import Opset

_OPSET24 = Opset("", 24)


def _scatter(cache: torch.Tensor, new: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
    """In PyTorch a copy; whether an engine copies depends on where its output lies."""
    written = cache.clone()
    first = int(slot)
    written[:, :, first : first + new.shape[2]] = new
    return written


_tensor_scatter: Any = torch.library.custom_op("stc_export::tensor_scatter", _scatter, mutates_args=())
_tensor_scatter.register_fake(lambda cache, _new, _slot: torch.empty_like(cache))


def tensor_scatter(cache: Any, new: Any, slot: Any) -> Any:
    """Return ``cache`` with ``new`` in it; exports to one ``TensorScatter``, which can write in place.

    Args:
        cache: [1, heads, P, width].
        new: [1, heads, S, width].
        slot: [1] int64: where the first of ``new`` goes; slot + S <= P.
    """
    return _tensor_scatter(cache, new, slot)


def _translate_tensor_scatter(cache: Any, new: Any, slot: Any) -> Any:
    return _OPSET24.TensorScatter(cache, new, slot, axis=-2)


#: Operators of PyTorch with what writes them to a graph.
TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.stc_export.tensor_scatter.default: _translate_tensor_scatter
}
