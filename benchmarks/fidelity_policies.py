"""The policies that `fidelity.py` compares: the published ones, ours, and what lies around both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy, Selection, named_policies

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
    """Those that have a name, and what lies around them: a curve over ``tau``, one over ``max_interval``, margins."""
    for name in ("adaptive", "fast"):
        yield name, named_policies()[name]
    for gate in (*_plain(), *_margins()):
        yield gate_name(gate), Policy(gate=gate)


def _plain() -> Iterator[GatePolicy]:
    """Without a margin."""
    middle = GatePolicy(tau=0.95, margin=0, cut=0.4, floor=0.1, max_interval=8)
    yield from (replace(middle, tau=tau) for tau in (0.85, 0.9, 0.95, 0.97, 0.98, 0.99))
    yield from (replace(middle, max_interval=interval) for interval in (4, 16, 32))
    yield from (replace(middle, floor=floor) for floor in (0.0, 0.2))
    yield from (replace(middle, cut=cut) for cut in (0.2, 0.6))
    yield replace(middle, cut=0.6, max_interval=32, floor=0.0)


def _margins() -> Iterator[GatePolicy]:
    """With the neighbours of changed tokens, and nothing else; what is missing here is ``adaptive`` and ``fast``."""
    named = [policy.gate for policy in named_policies().values()]
    for interval in (2, 4, 8, 16):
        gates = (_margin(tau, interval) for tau in (0.8, 0.9))
        yield from (gate for gate in gates if gate not in named)


def _margin(tau: float, interval: int) -> GatePolicy:
    return GatePolicy(tau=tau, margin=1, cut=0.4, floor=0.0, max_interval=interval)


def gate_name(gate: GatePolicy) -> str:
    """Name of a setting of the gate."""
    return f"tau={gate.tau:.2f} margin={gate.margin} cut={gate.cut:.1f} floor={gate.floor:.1f} max={gate.max_interval}"


def _fixed(selection: Selection, interval: int) -> Policy:
    return Policy(
        gate=GatePolicy(mode="paper"),
        cacher=CacherPolicy(selection=selection, update="reference", interval=interval, update_ratio=0.25),
    )
