"""Which encoder and which reader a method has in the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from stc_export.reference.encoder import CachedEncoder, Encoder
from stc_export.reference.evs_clip import evs_clip, evs_clip_tokens
from stc_export.reference.fastv import FastV
from stc_export.reference.late import LateReader, before_llm, inside_llm
from stc_export.reference.model import TorchModel
from stc_export.reference.pdrop import PDrop
from stc_export.reference.readers import Reader, StreamReader
from stc_export.reference.sparsevlm import SparseVlm
from stc_export.reference.tome import TomeEncoder, tome_reader
from stc_export.reference.vidcom2_clip import vidcom2_clip
from stc_export.spec.policy import Policy


@dataclass(frozen=True)
class Parts:
    """How a stream of a method is made.

    Attributes:
        encoder: Starts its encoder.
        reader: Starts its reader; the last argument are the token ids of the prompt before the video.
    """

    encoder: Callable[[TorchModel, Policy], Encoder] = CachedEncoder
    reader: Callable[[TorchModel, Policy, tuple[int, ...]], Reader] = StreamReader


#: The methods of :data:`stc_export.reference.methods.REFERENCE_METHODS`.
PARTS: Mapping[str, Parts] = {
    "evs_clip": Parts(reader=partial(LateReader, before_llm(evs_clip, partial(evs_clip_tokens, 1)))),
    "fastv": Parts(reader=partial(LateReader, inside_llm(FastV()))),
    "pdrop": Parts(reader=partial(LateReader, inside_llm(PDrop()))),
    "sparsevlm": Parts(reader=partial(LateReader, inside_llm(SparseVlm()))),
    "tome": Parts(TomeEncoder, tome_reader),
    "vidcom2_clip": Parts(reader=partial(LateReader, before_llm(vidcom2_clip))),
}


def find_parts(method: str) -> Parts:
    """Return how a stream of a method is made; by default frame by frame, as in a bundle."""
    return PARTS.get(method, Parts())
