"""Which frames are encoded fully, selectively or not at all: a pure function of policy, state and similarity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.memory import kept_tokens
from stc_export.spec.report import CacherMode

if TYPE_CHECKING:
    from stc_export.spec.policy import GatePolicy, Policy


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
    """

    mode: CacherMode
    indices: NDArray[np.int64]


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
    recomputed = _recomputed(policy, state, similarity)
    if recomputed is None:
        decision = Decision("full", np.arange(similarity.size, dtype=np.int64))
        return decision, GateState(frames_since_full=0, has_reference=True, frames=state.frames + 1)
    decision = Decision("selective" if recomputed.size else "skip", recomputed)
    return decision, GateState(state.frames_since_full + 1, state.has_reference, state.frames + 1)


def _recomputed(policy: Policy, state: GateState, similarity: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Return the tokens to recompute, or ``None`` for a full frame."""
    # Without a reference there is nothing to reuse, whatever the policy says.
    if policy.gate.mode == "off" or not state.has_reference:
        return None
    if policy.gate.mode == "paper":
        if state.frames % policy.cacher.interval == 0:
            return None
        return _lowest(similarity, kept_tokens(similarity.size, policy.cacher.update_ratio))
    return _recomputed_adaptive(policy.gate, state, similarity)


def _recomputed_adaptive(
    gate: GatePolicy, state: GateState, similarity: NDArray[np.float32]
) -> NDArray[np.int64] | None:
    tokens = similarity.size
    changed = ~(similarity >= gate.tau)  # this way round a NaN is a change
    if state.frames_since_full + 1 >= gate.max_interval or np.count_nonzero(changed) / tokens > gate.cut:
        return None
    if not changed.any():
        return np.empty(0, np.int64)
    needed = _with_margin(changed, gate.margin)
    least = max(int(np.count_nonzero(needed)), math.ceil(gate.floor * tokens))
    count = min(math.ceil(least / gate.bucket) * gate.bucket, tokens)
    return _lowest(np.where(needed, -np.inf, similarity), count)


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
