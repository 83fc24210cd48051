"""ToMe (arXiv 2210.09461): tokens are merged inside the ViT, and unmerged behind it because pooling needs the grid."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from stc_export.reference.encoder import EncodedFrame, Seen
from stc_export.reference.model import TorchModel
from stc_export.reference.readers import StreamReader
from stc_export.reference.vision import attend
from stc_export.spec.errors import PolicyError, UnsupportedError
from stc_export.spec.policy import Policy


class TomeEncoder:
    """Every frame in full, with ``r`` tokens fewer in each layer.

    ``pruner.keep`` is the mean over the layers of the share of tokens that leave a layer; r is the smallest number for
    which it is not exceeded. At most half of the tokens can be merged in a layer.
    """

    def __init__(self, model: TorchModel, policy: Policy) -> None:
        """Start a stream.

        Args:
            model: Shared.
            policy: ``pruner.keep`` and ``gate.mode`` are read.

        Raises:
            PolicyError: A gate that needs the feature cache, or a share that no r gives.
            UnsupportedError: Attention that takes no bias.
        """
        if policy.gate.mode != "off":
            raise PolicyError(
                f'gate.mode is "{policy.gate.mode}", but tome merges tokens inside the vision transformer, '
                "which leaves no feature cache.",
                'Set gate.mode to "off".',
            )
        if not model.form.bias:
            raise UnsupportedError(
                f"tome adds to the scores of attention, which {model.form.name} cannot.", "Choose --attention sdpa."
            )
        vision = model.manifest.dims.vision
        self._model = model
        self._merges = merge_schedule(vision.tokens, vision.layers, policy.pruner.keep)
        left = vision.tokens * vision.layers - sum((vision.layers - i) * r for i, r in enumerate(self._merges))
        self._computed = round(left / vision.layers)

    def reset(self) -> None:
        """Start a new stream."""

    def encode(self, frame: NDArray[np.uint8]) -> EncodedFrame:
        """Encode a frame uint8 [H, W, 3]."""
        start = time.perf_counter()
        patches = self._model.patch_embeddings(frame)
        embedded = time.perf_counter()
        features = merged_pass(self._model.vision_layers, patches + self._model.positions(), self._merges)
        done = time.perf_counter()
        gate_ms, vit_ms = (embedded - start) * 1e3, (done - embedded) * 1e3
        return EncodedFrame("full", self._computed, (), 0.0, float("inf"), Seen(features), gate_ms, vit_ms)


def tome_reader(model: TorchModel, policy: Policy, sink: tuple[int, ...]) -> StreamReader:
    """Return a reader that gets all visual tokens of the frames."""
    return StreamReader(model, replace(policy, pruner=replace(policy.pruner, method="none")), sink)


def merge_schedule(tokens: int, layers: int, keep: float) -> tuple[int, ...]:
    """Return how many tokens each layer merges away.

    Args:
        tokens: T.
        layers: L.
        keep: Mean over the layers of the share of tokens that leave a layer.

    Raises:
        PolicyError: Halving the tokens in each layer leaves more.
    """
    for most in range(tokens // 2 + 1):
        merges, left, total = [], tokens, 0
        for _ in range(layers):
            merges.append(min(most, left // 2))
            left -= merges[-1]
            total += left
        if total <= keep * layers * tokens + 1e-9:
            return tuple(merges)
    least = total / (layers * tokens)
    raise PolicyError(
        f"pruner.keep is {keep:g}, but tome can at most halve the tokens in each layer, which leaves {least:.3g}.",
        f"Set pruner.keep to at least {least:.3g}.",
    )


def merged_pass(layers: Any, start: Tensor, merges: tuple[int, ...]) -> Tensor:
    """Encode a frame, merging tokens between the attention and the MLP of each layer.

    Args:
        layers: transformers' encoder layers.
        start: Patch embeddings with positions [T, C].
        merges: Tokens that each layer merges away.

    Returns:
        Features [T, C]: each token has those of the token that it was merged into.
    """
    x, sizes = start, torch.ones(len(start), device=start.device, dtype=start.dtype)
    place = torch.arange(len(start), device=start.device)
    for layer, merge in zip(layers, merges, strict=True):
        attention = layer.self_attn
        h = layer.layer_norm1(x)
        key = attention.k_proj(h)
        x = x + attend(attention, attention.q_proj(h), key, attention.v_proj(h), sizes.log())
        into = match(key.unflatten(-1, (-1, attention.head_dim)).mean(dim=1), merge)
        count = len(x) - merge
        merged = x.new_zeros(count, x.shape[1]).index_add_(0, into, x * sizes[:, None])
        sizes = sizes.new_zeros(count).index_add_(0, into, sizes)
        x, place = merged / sizes[:, None], into[place]
        x = x + layer.mlp(layer.layer_norm2(x))
    return x[place]


def match(metric: Tensor, merge: int) -> Tensor:
    """Return into which of N - merge tokens each of N tokens goes.

    Tokens at even places look for the likest one at an odd place, by cosine; the ``merge`` closest pairs are joined.

    Args:
        metric: Keys, the mean over their heads [N, d].
        merge: Tokens to merge away, at most N / 2.
    """
    unit = normalize(metric.float(), dim=-1)
    near, which = (unit[::2] @ unit[1::2].T).max(dim=1) if len(unit) > 1 else (unit[:, 0], unit[:, 0].long())
    gone = torch.argsort(near, stable=True, descending=True)[:merge]
    stays = torch.ones(len(unit), dtype=torch.bool, device=unit.device).index_fill_(0, 2 * gone, value=False)
    into = stays.long().cumsum(dim=0) - 1
    return into.index_copy_(0, 2 * gone, into[2 * which[gone] + 1])
