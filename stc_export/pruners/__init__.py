"""The pruning methods. A new one is a file with a module, and a row of :data:`PRUNERS`.

A module has no parameters and is called after projector and pooling as ``module(tokens, *inputs)``: ``tokens`` [M, D]
come from the same graph, ``inputs`` are the graph inputs that its row names, in that order. It scores in float32 and
returns tokens in the type that it got. State stays with the host: history goes in, one entry comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from stc_export.pruners.evs import Evs
from stc_export.pruners.none import KeepAll
from stc_export.pruners.random import Random
from stc_export.pruners.stc_dual_anchor import StcDualAnchor
from stc_export.pruners.stc_gaussian import StcGaussian, selected_channels
from stc_export.pruners.stride import Stride
from stc_export.pruners.vcast import VCast
from stc_export.pruners.vidcom2 import VidCom2
from stc_export.pruners.visionzip import VisionZip
from stc_export.spec.dims import ModelDims
from stc_export.spec.errors import UnsupportedError, nearest
from stc_export.spec.manifest import HistoryKind

PrunerInput = Literal["history", "history_weights", "alpha", "noise", "attention", "keys", "carrier"]
PrunerOutput = Literal["visual_tokens", "kept_indices", "history_entry"]


@dataclass(frozen=True)
class PrunerMethod:
    """One pruning method.

    Attributes:
        name: Name in policies and manifests, and variant of its graph.
        factory: Makes the module for a model.
        history: What the host keeps: see :class:`stc_export.spec.manifest.PrunerEntry`.
        history_width: E, elements of one history entry, for a model; 0 without history.
        inputs: Graph inputs in the order of ``forward`` after ``tokens``: ``history`` float32 [W, E],
            ``history_weights`` float32 [W], ``alpha`` float32 [1], ``noise`` float32 [M], ``carrier`` int64 [K]; and of
            the last layer of the ViT ``attention`` float32 [T] and ``keys`` [heads, T, d], which the family pools like
            the tokens: the module gets float32 [M], and their mean over heads float32 [M, d].
        outputs: Outputs in order: ``visual_tokens`` [K, D], ``kept_indices`` int64 [K], ``history_entry`` float32 [E].
        ranked: Outputs whose elements stand in the order of a ranking: nearly equal scores swap places by rounding.
    """

    name: str
    factory: Callable[[ModelDims], torch.nn.Module]
    history: HistoryKind
    history_width: Callable[[ModelDims], int]
    inputs: tuple[PrunerInput, ...]
    outputs: tuple[PrunerOutput, ...]
    ranked: frozenset[PrunerOutput] = frozenset()


PRUNERS: tuple[PrunerMethod, ...] = (
    PrunerMethod(
        name="none",
        factory=lambda _dims: KeepAll(),
        history="none",
        history_width=lambda _dims: 0,
        inputs=(),
        outputs=("visual_tokens", "kept_indices"),
    ),
    PrunerMethod(
        name="random",
        factory=lambda _dims: Random(),
        history="none",
        history_width=lambda _dims: 0,
        inputs=("noise", "carrier"),
        outputs=("visual_tokens", "kept_indices"),
    ),
    PrunerMethod(
        name="stc_gaussian",
        factory=lambda dims: StcGaussian(dims.text.width),
        history="mean",
        history_width=lambda dims: selected_channels(dims.text.width),
        inputs=("history", "history_weights", "carrier"),
        outputs=("visual_tokens", "kept_indices", "history_entry"),
        ranked=frozenset({"history_entry"}),
    ),
    PrunerMethod(
        name="stc_dual_anchor",
        factory=lambda _dims: StcDualAnchor(),
        history="window",
        history_width=lambda dims: dims.text.width,
        inputs=("history", "history_weights", "alpha", "carrier"),
        outputs=("visual_tokens", "kept_indices", "history_entry"),
    ),
    PrunerMethod(
        name="stride",
        factory=lambda _dims: Stride(),
        history="none",
        history_width=lambda _dims: 0,
        inputs=("carrier",),
        outputs=("visual_tokens", "kept_indices"),
    ),
    PrunerMethod(
        name="vidcom2",
        factory=lambda _dims: VidCom2(),
        history="window",
        history_width=lambda dims: dims.text.width,
        inputs=("history", "history_weights", "carrier"),
        outputs=("visual_tokens", "kept_indices", "history_entry"),
    ),
    PrunerMethod(
        name="vcast",
        factory=lambda _dims: VCast(),
        history="none",
        history_width=lambda _dims: 0,
        inputs=("carrier",),
        outputs=("visual_tokens", "kept_indices"),
    ),
    PrunerMethod(
        name="evs",
        factory=lambda _dims: Evs(),
        history="last",
        history_width=lambda dims: dims.vision.visual_tokens * dims.text.width,
        inputs=("history", "history_weights", "carrier"),
        outputs=("visual_tokens", "kept_indices", "history_entry"),
    ),
)


#: Methods that need the attention of the ViT: there are graphs of them in bundles that were built with it.
ATTENTION_PRUNERS: tuple[PrunerMethod, ...] = (
    PrunerMethod(
        name="visionzip",
        factory=lambda _dims: VisionZip(),
        history="none",
        history_width=lambda _dims: 0,
        inputs=("attention", "keys", "carrier"),
        outputs=("visual_tokens", "kept_indices"),
    ),
)


def pruner_method(name: str) -> PrunerMethod:
    """Return a pruning method by name.

    Raises:
        UnsupportedError: There is no such method.
    """
    methods = (*PRUNERS, *ATTENTION_PRUNERS)
    for method in methods:
        if method.name == name:
            return method
    raise UnsupportedError(f'There is no pruning method "{name}".', nearest(name, [m.name for m in methods]))
