"""The policies that `fidelity.py` compares: the published ones, ours, and what lies around both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy, Selection

#: Intervals of the published method: its curve of cost against fidelity.
PAPER_INTERVALS = (2, 3, 4, 8, 16)


def paper_name(interval: int) -> str:
    """Name of the published method with one full frame in ``interval``."""
    return f"paper N={interval} R=25%"


def policies() -> Mapping[str, Policy]:
    """Return all policies by name."""
    return {name: policy for part in (_paper(), _selections(), _ours()) for name, policy in part}


def _paper() -> Iterator[tuple[str, Policy]]:
    for interval in PAPER_INTERVALS:
        yield paper_name(interval), _fixed("per_layer", interval)


def _selections() -> Iterator[tuple[str, Policy]]:
    """The published schedule with another selection, update or share of recomputed tokens."""
    yield "shared N=4 R=25%", _fixed("shared", 4)
    for interval in (2, 4, 8):
        yield f"gate N={interval} R=25%", _fixed("gate", interval)
    rolling = _fixed("gate", 4)
    rolling = replace(rolling, cacher=replace(rolling.cacher, update="rolling"))
    yield "gate N=4 R=25% rolling", rolling
    yield "gate N=4 R=10% rolling", replace(rolling, cacher=replace(rolling.cacher, update_ratio=0.1))


def _ours() -> Iterator[tuple[str, Policy]]:
    """The default policy, its curve over ``tau``, and one setting changed at a time."""
    yield "adaptive", Policy()
    for tau in (0.85, 0.9, 0.97, 0.98, 0.99):
        yield f"adaptive tau={tau:.2f}", _adaptive(GatePolicy(tau=tau))
    for interval in (4, 16, 32):
        yield f"adaptive max={interval}", _adaptive(GatePolicy(max_interval=interval))
    for floor in (0.0, 0.2):
        yield f"adaptive floor={floor:.2f}", _adaptive(GatePolicy(floor=floor))
    for cut in (0.2, 0.6):
        yield f"adaptive cut={cut:.2f}", _adaptive(GatePolicy(cut=cut))
    yield "adaptive tau=0.95 cut=0.60 max=32 floor=0.00", _adaptive(GatePolicy(cut=0.6, max_interval=32, floor=0.0))


def _fixed(selection: Selection, interval: int) -> Policy:
    return Policy(
        gate=GatePolicy(mode="paper"),
        cacher=CacherPolicy(selection=selection, update="reference", interval=interval, update_ratio=0.25),
    )


def _adaptive(gate: GatePolicy) -> Policy:
    return Policy(gate=gate)
