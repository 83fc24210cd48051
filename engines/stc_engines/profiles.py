"""Shapes that an engine is built for: one optimisation profile per way in which a graph is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_export.spec.memory import bucket_for, kept_tokens, kv_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stc_export.spec.manifest import GraphEntry, Manifest, Role

#: History entries that a stream may have without a new engine, if the bundle's policy has fewer.
_MOST_HISTORY = 64


@dataclass(frozen=True)
class Sizes:
    """A dynamic dimension: the smallest, the one to be fastest at, the largest. ``0 <= least <= usual <= most``."""

    least: int
    usual: int
    most: int

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: Out of order. A defect of the caller.
        """
        if not 0 <= self.least <= self.usual <= self.most:
            raise ValueError(f"sizes {self.least}, {self.usual}, {self.most} are out of order")


@dataclass(frozen=True)
class InputShapes:
    """The shapes of one input at the three sizes of a profile."""

    name: str
    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """One way in which a graph is used, e.g. ``prefill``.

    Attributes:
        name: Its name.
        inputs: Inputs with a dynamic dimension.
    """

    name: str
    inputs: tuple[InputShapes, ...]


Letters = dict[str, Sizes]


def profiles_of(graph: GraphEntry, manifest: Manifest) -> tuple[Profile, ...]:
    """Return the profiles of a graph, from the sizes of the model and the bundle's policy; none if all is static.

    Raises:
        StcError: The policy's memory does not fit the model.
    """
    dynamic = [spec for spec in graph.inputs if any(isinstance(size, str) for size in spec.shape)]
    if not dynamic:
        return ()
    return tuple(
        Profile(name, tuple(_shapes(spec.name, spec.shape, letters) for spec in dynamic))
        for name, letters in _USES[graph.role](graph, manifest).items()
    )


def _shapes(name: str, shape: tuple[int | str, ...], letters: Letters) -> InputShapes:
    known = [letters[size] if isinstance(size, str) else Sizes(size, size, size) for size in shape]
    return InputShapes(name, tuple(s.least for s in known), tuple(s.usual for s in known), tuple(s.most for s in known))


def _vit(_graph: GraphEntry, manifest: Manifest) -> dict[str, Letters]:
    """All tokens, or R of them: any number, since a policy that says another one needs no new engine."""
    tokens = manifest.dims.vision.tokens
    usual = kept_tokens(tokens, manifest.policy.cacher.update_ratio)
    return {"full": {"R": Sizes(tokens, tokens, tokens)}, "selective": {"R": Sizes(1, usual, tokens)}}


def _pruner(graph: GraphEntry, manifest: Manifest) -> dict[str, Letters]:
    tokens, policy = manifest.dims.vision.visual_tokens, manifest.policy.pruner
    window = Sizes(1, policy.history, max(policy.history, _MOST_HISTORY))
    history = {"window": window}.get(manifest.pruner(graph.variant).history, Sizes(1, 1, 1))
    return {"default": {"K": Sizes(1, kept_tokens(tokens, policy.keep), tokens), "W": history}}


def _llm(_graph: GraphEntry, manifest: Manifest) -> dict[str, Letters]:
    """A prefill takes a frame, the prompt or a question; decoding takes one token at a time."""
    memory, visual = manifest.policy.memory, manifest.dims.vision.visual_tokens
    capacity = kv_slots(memory, manifest.dims.text.context)
    past = Sizes(bucket_for(0, capacity), bucket_for(capacity // 2, capacity), capacity)
    longest = max(visual, memory.answer_tokens, len(manifest.prompt.before_video))
    usual = kept_tokens(visual, manifest.policy.pruner.keep)
    prefill = Sizes(1, usual, max(usual, min(longest, capacity)))  # a new token needs a slot
    return {"prefill": {"S": prefill, "P": past}, "decode": {"S": Sizes(1, 1, 1), "P": past}}


_USES: Mapping[Role, Callable[[GraphEntry, Manifest], dict[str, Letters]]] = {
    "vit": _vit,
    "pruner": _pruner,
    "llm": _llm,
}
