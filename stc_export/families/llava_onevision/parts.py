"""Which form each part of the modules has in a flavour and a type: the only place where they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from stc_export.families.llava_onevision import attention, blocks, rotary
from stc_export.families.llava_onevision.cache import Beside, Cache, InPlace
from stc_export.families.llava_onevision.coding import Coding
from stc_export.spec.manifest import DType, Flavour


@dataclass(frozen=True)
class Parts:
    """The parts of a model that differ.

    Attributes:
        rms_norm: (x, weight, eps) -> x, all float32.
        rotate: (x [1, heads, S, head_dim], table) -> x.
        vision_attention: (q, keys, values), [heads, tokens, head_dim] each -> mixed values of q.
        cache: How keys and values are kept -> what the decoder does with its past.
    """

    rms_norm: Callable[[Any, Any, float], Any]
    rotate: Callable[[Any, rotary.Rotary], Any]
    vision_attention: Callable[[Any, Any, Any], Any]
    cache: Callable[[Coding], Cache]


_BASE = Parts(blocks.rms_norm_steps, rotary.rotate_steps, attention.vision_steps, Beside)
_MODERN = Parts(blocks.rms_norm, rotary.rotate, attention.vision, partial(InPlace, attention.masked))

PARTS: Mapping[tuple[Flavour, DType], Parts] = {
    ("base", "float32"): _BASE,
    ("base", "float16"): _BASE,
    ("base", "bfloat16"): _BASE,
    # TensorRT has no float32 kernel for the operator Attention, and refuses the graph.
    ("modern", "float32"): Parts(
        blocks.rms_norm, rotary.rotate, attention.vision_steps, partial(InPlace, attention.masked_steps)
    ),
    ("modern", "float16"): _MODERN,
    ("modern", "bfloat16"): _MODERN,
}
