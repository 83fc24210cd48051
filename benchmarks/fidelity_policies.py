"""The policies that `fidelity.py` compares: the published ones, ours, and what lies around both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy, Selection, named_policies

#: Intervals of the published method: its curve of cost against fidelity.
PAPER_INTERVALS = (2, 3, 4, 8, 16)
#: What is computed replaces what is cached, and nothing else moves.
_OVERWRITING = CacherPolicy(gain=1.0, drift=0.0)


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
    """Those that have a name, and what lies around them: curves over ``max_interval`` and ``tau``, and their parts."""
    named = named_policies()
    for name in ("adaptive", "fast"):
        yield name, named[name]
    for policy in (*_carrying(), *_parts()):
        if policy not in named.values():
            yield f"{gate_name(policy.gate)} gain={policy.cacher.gain:g} drift={policy.cacher.drift:g}", policy
    for gate in (*_margins(), *_plain()):
        yield gate_name(gate), Policy(gate=gate, cacher=_OVERWRITING)


def _carrying() -> Iterator[Policy]:
    """With the neighbours of changed tokens and what the cache carries over."""
    yield from (Policy(gate=_margin(0.9, interval)) for interval in (2, 3, 4, 5, 6, 8, 16))
    yield from (Policy(gate=_margin(0.8, interval)) for interval in (4, 8, 16))


def _parts() -> Iterator[Policy]:
    """Each half of what is carried over, and neither."""
    default = Policy()
    for gain, drift in ((default.cacher.gain, 0.0), (1.0, default.cacher.drift), (1.0, 0.0)):
        yield replace(default, cacher=CacherPolicy(gain=gain, drift=drift))


def _margins() -> Iterator[GatePolicy]:
    """With the neighbours of changed tokens, and nothing carried over."""
    yield from (_margin(tau, interval) for interval in (2, 4, 8, 16) for tau in (0.8, 0.9))


def _margin(tau: float, interval: int) -> GatePolicy:
    return GatePolicy(tau=tau, margin=1, cut=0.4, floor=0.0, max_interval=interval)


def _plain() -> Iterator[GatePolicy]:
    """Without a margin."""
    middle = GatePolicy(tau=0.95, margin=0, cut=0.4, floor=0.1, max_interval=8)
    yield from (replace(middle, tau=tau) for tau in (0.85, 0.9, 0.95, 0.97, 0.98, 0.99))
    yield from (replace(middle, max_interval=interval) for interval in (4, 16, 32))
    yield from (replace(middle, floor=floor) for floor in (0.0, 0.2))
    yield from (replace(middle, cut=cut) for cut in (0.2, 0.6))
    yield replace(middle, cut=0.6, max_interval=32, floor=0.0)


def like(policy: Policy, other: Policy) -> bool:
    """Whether only the interval of the adaptive gate's full frames is another one."""
    gate = replace(policy.gate, max_interval=other.gate.max_interval)
    return replace(policy, gate=gate) == other


def gate_name(gate: GatePolicy) -> str:
    """Name of a setting of the gate."""
    return f"tau={gate.tau:.2f} margin={gate.margin} cut={gate.cut:.1f} floor={gate.floor:.1f} max={gate.max_interval}"


def _fixed(selection: Selection, interval: int) -> Policy:
    return Policy(
        gate=GatePolicy(mode="paper"),
        cacher=replace(_OVERWRITING, selection=selection, update="reference", interval=interval, update_ratio=0.25),
    )
