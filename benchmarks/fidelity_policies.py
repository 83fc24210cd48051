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
    for policy in (*_carrying(), *_parts(), *_plain()):
        if policy not in named.values():
            yield our_name(policy), policy


def _carrying() -> Iterator[Policy]:
    """With other intervals than those that have a name."""
    named = named_policies()
    for name, intervals in (("adaptive", (2, 3, 4, 5, 7, 10, 16)), ("fast", (4, 8, 16))):
        yield from (_every(named[name], interval) for interval in intervals)


def _parts() -> Iterator[Policy]:
    """The default without a part of it: gain, drift, both (a curve), warm-up."""
    default = Policy()
    yield replace(default, cacher=replace(default.cacher, gain=1.0))
    yield replace(default, cacher=replace(default.cacher, drift=0.0))
    yield from (_every(replace(default, cacher=_OVERWRITING), interval) for interval in (2, 4, 7, 16))
    yield replace(default, gate=replace(default.gate, warmup=1))


def _plain() -> Iterator[Policy]:
    """Without margin and warm-up, nothing carried over; a least share of recomputed tokens in place of the margin."""
    gate = GatePolicy(margin=0, floor=0.1, max_interval=8, warmup=1)
    yield from (Policy(gate=replace(gate, tau=tau), cacher=_OVERWRITING) for tau in (0.9, 0.95, 0.98))


def _every(policy: Policy, interval: int) -> Policy:
    return replace(policy, gate=replace(policy.gate, max_interval=interval))


def like(policy: Policy, other: Policy) -> bool:
    """Whether only the interval of the adaptive gate's full frames is another one."""
    gate = replace(policy.gate, max_interval=other.gate.max_interval)
    return replace(policy, gate=gate) == other


def our_name(policy: Policy) -> str:
    """Name of a setting of the adaptive gate and of what the cache carries over."""
    gate, cacher = policy.gate, policy.cacher
    return (
        f"tau={gate.tau:.2f} margin={gate.margin} floor={gate.floor:.1f} max={gate.max_interval} "
        f"warmup={gate.warmup} gain={cacher.gain:g} drift={cacher.drift:g}"
    )


def _fixed(selection: Selection, interval: int) -> Policy:
    return Policy(
        gate=GatePolicy(mode="paper"),
        cacher=replace(_OVERWRITING, selection=selection, update="reference", interval=interval, update_ratio=0.25),
    )
