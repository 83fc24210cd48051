"""Which frames are encoded fully, selectively or not at all: a pure function of policy, state and similarity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.memory import kept_tokens
from stc_export.spec.report import CacherMode

if TYPE_CHECKING:
    from stc_export.spec.policy import GateMode, Policy


@dataclass(frozen=True)
class GateState:
    """What the gate remembers between frames; ``GateState()`` is the start of a stream.

    Attributes:
        frames_since_full: Frames decided after the last full one.
        has_reference: Whether a full frame has filled the feature cache.
        frames: Frames decided so far.
    """

    frames_since_full: int = 0
    has_reference: bool = False
    frames: int = 0


@dataclass(frozen=True, eq=False)
class Decision:
    """How one frame is encoded.

    Attributes:
        mode: Full, selective or skip.
        indices: Tokens to recompute, int64 [R], ascending: all T for full, none for skip.
        gain: Share of what is computed in what is cached of a token, float32 [R].
        drift: Weights of the sum by which the other tokens move, float32 [R].
    """

    mode: CacherMode
    indices: NDArray[np.int64]
    gain: NDArray[np.float32]
    drift: NDArray[np.float32]

    @classmethod
    def overwriting(cls, mode: CacherMode, indices: NDArray[np.int64]) -> Decision:
        """What is computed replaces what is cached, and nothing else moves."""
        return cls(mode, indices, np.ones(len(indices), np.float32), np.zeros(len(indices), np.float32))


def decide(policy: Policy, state: GateState, similarity: NDArray[np.float32]) -> tuple[Decision, GateState]:
    """Decide how the next frame is encoded.

    Args:
        policy: Settings of the stream; ``gate`` and ``cacher`` are read.
        state: State after the previous frame.
        similarity: Cosine of each token with the reference, float32 [T]: a square grid in raster order. A NaN counts as
            changed.

    Returns:
        The decision, and the state to hand in with the next frame. Among equal similarities the token with the lower
        index is recomputed first.
    """
    decision = _MODES[policy.gate.mode](policy, state, similarity) if state.has_reference else _full(similarity.size)
    since = 0 if decision.mode == "full" else state.frames_since_full + 1
    has_reference = state.has_reference or decision.mode == "full"
    return decision, GateState(since, has_reference, state.frames + 1)


def _full(tokens: int) -> Decision:
    return Decision.overwriting("full", np.arange(tokens, dtype=np.int64))


def _off(policy: Policy, state: GateState, similarity: NDArray[np.float32]) -> Decision:
    return _full(similarity.size)


def _paper(policy: Policy, state: GateState, similarity: NDArray[np.float32]) -> Decision:
    if state.frames % policy.cacher.interval == 0:
        return _full(similarity.size)
    return Decision.overwriting(
        "selective", _lowest(similarity, kept_tokens(similarity.size, policy.cacher.update_ratio))
    )


def _adaptive(policy: Policy, state: GateState, similarity: NDArray[np.float32]) -> Decision:
    gate, tokens = policy.gate, similarity.size
    changed = ~(similarity >= gate.tau)  # this way round a NaN is a change
    if np.count_nonzero(changed) / tokens > gate.cut:
        return _full(tokens)
    needed = _with_margin(changed, gate.margin)
    if state.frames < gate.warmup or state.frames_since_full + 1 >= gate.max_interval:
        gain = np.where(needed, 1.0, policy.cacher.gain).astype(np.float32)
        return replace(_full(tokens), gain=gain)
    if not changed.any():
        return Decision.overwriting("skip", np.empty(0, np.int64))
    least = max(int(np.count_nonzero(needed)), math.ceil(gate.floor * tokens))
    count = min(math.ceil(least / gate.bucket) * gate.bucket, tokens)
    chosen = Decision.overwriting("selective", _lowest(np.where(needed, -np.inf, similarity), count))
    return replace(chosen, drift=_even(~changed[chosen.indices], policy.cacher.drift))


#: How a frame is decided once there is a reference; without one nothing can be reused, whatever the policy says.
_MODES: Mapping[GateMode, Callable[[Policy, GateState, NDArray[np.float32]], Decision]] = {
    "off": _off,
    "paper": _paper,
    "adaptive": _adaptive,
}


def _even(members: NDArray[np.bool_], total: float) -> NDArray[np.float32]:
    """Return weights float32 [R], the same for all members, that add up to ``total``; 0 where there are none."""
    return np.where(members, total / max(1, int(np.count_nonzero(members))), 0.0).astype(np.float32)


def _with_margin(changed: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Return bool [T]: whether a token, or one within ``margin`` places in its grid, has changed."""
    if margin == 0:
        return changed
    side = math.isqrt(changed.size)
    padded = np.pad(changed.reshape(side, side), margin)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * margin + 1, 2 * margin + 1))
    return windows.any(axis=(-2, -1)).ravel()


def _lowest(similarity: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Return the ascending indices of the ``count`` lowest values; NaN is lowest, ties go to the lower index."""
    keys = np.where(np.isnan(similarity), -np.inf, similarity)
    order = np.argsort(keys, kind="stable")
    return np.sort(order[:count]).astype(np.int64, copy=False)
