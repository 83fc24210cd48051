"""The policies that are tried: a fixed grid of ways to encode frames times ways to prune their tokens.

The grid is small on purpose. Every policy of it is watched on real clips, and between two neighbours of it answers
hardly differ.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from stc_export.spec.policy import CacherPolicy, GatePolicy, MemoryPolicy, Policy, PrunerPolicy, named_policies

#: What everything is compared with, and the published operating point.
BASELINE, PUBLISHED = "off", "paper"
#: Tried first, so that a search that is cut short has seen them.
_FIRST = (BASELINE, PUBLISHED, "adaptive", "fast")
_TAUS = (0.95, 0.9, 0.8)
_MAX_INTERVALS = (4, 24)
#: Gate mode ``paper``: interval and update ratio.
_FIXED = ((2, 0.25), (4, 0.25), (8, 0.125))
#: Pruning method and keep ratio.
_PRUNERS = (
    ("stc_dual_anchor", 0.75),
    ("stc_dual_anchor", 0.5),
    ("stc_dual_anchor", 0.3),
    ("evs", 0.5),
    ("evs", 0.3),
)
#: Frames of a clip: shorter ones would not test every gate of the grid.
CLIP_FRAMES = max(_MAX_INTERVALS)
_SEED = 0


@dataclass(frozen=True)
class Candidate:
    """A policy that is tried.

    Attributes:
        name: What tables call it.
        policy: All its settings.
    """

    name: str
    policy: Policy


@dataclass(frozen=True)
class _Encoding:
    name: str
    gate: GatePolicy
    cacher: CacherPolicy


@dataclass(frozen=True)
class _Pruning:
    name: str
    pruner: PrunerPolicy


def make_candidates(memory: MemoryPolicy, methods: Collection[str]) -> tuple[Candidate, ...]:
    """Return the baseline, the other named policies, then the grid in an order that looks random and never changes.

    A search that is cut short has then tried a fair sample of the grid.

    Args:
        memory: What all of them remember.
        methods: Pruning methods that the bundle has.
    """
    named = [Candidate(name, replace(named_policies()[name], memory=memory)) for name in _FIRST]
    grid = [_candidate(memory, *pair) for pair in product(_encodings(), _prunings())]
    order = np.random.default_rng(_SEED).permutation(len(grid))
    known = {one.policy for one in named}
    mixed = [grid[place] for place in order if grid[place].policy not in known]
    return tuple(one for one in (*named, *mixed) if one.policy.pruner.method in methods)


def _candidate(memory: MemoryPolicy, encoding: _Encoding, pruning: _Pruning) -> Candidate:
    policy = Policy(gate=encoding.gate, cacher=encoding.cacher, pruner=pruning.pruner, memory=memory)
    return Candidate(f"{encoding.name}, {pruning.name}", policy)


def _encodings() -> list[_Encoding]:
    adaptive = [
        _Encoding(f"adaptive tau={tau:g} max_interval={most}", GatePolicy(tau=tau, max_interval=most), CacherPolicy())
        for tau, most in product(_TAUS, _MAX_INTERVALS)
    ]
    fixed = [
        _Encoding(
            f"fixed interval={interval} update_ratio={ratio:g}",
            GatePolicy(mode="paper"),
            CacherPolicy(interval=interval, update_ratio=ratio),
        )
        for interval, ratio in _FIXED
    ]
    return [_Encoding("every frame full", GatePolicy(mode="off"), CacherPolicy()), *adaptive, *fixed]


def _prunings() -> list[_Pruning]:
    whole = _Pruning("all tokens", PrunerPolicy(method="none", keep=1.0))
    return [
        whole,
        *(_Pruning(f"{name} keep={keep:g}", PrunerPolicy(method=name, keep=keep)) for name, keep in _PRUNERS),
    ]
