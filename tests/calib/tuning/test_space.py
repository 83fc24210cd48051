"""The grid of candidates."""

from __future__ import annotations

from stc_calib.tuning.space import BASELINE, CLIP_FRAMES, PUBLISHED, make_candidates
from stc_export.spec.policy import MemoryPolicy, named_policies

MEMORY = MemoryPolicy(kv_tokens=900, answer_tokens=124)
METHODS = ("none", "stc_dual_anchor", "evs")


def test_the_baseline_comes_first_and_named_policies_before_the_grid() -> None:
    names = [one.name for one in make_candidates(MEMORY, METHODS)]
    assert names[:4] == [BASELINE, PUBLISHED, "adaptive", "fast"]
    assert names[0] == "off"


def test_candidates_differ_and_keep_the_memory() -> None:
    found = make_candidates(MEMORY, METHODS)
    assert len({one.name for one in found}) == len({one.policy for one in found}) == len(found)
    assert {one.policy.memory for one in found} == {MEMORY}
    off = named_policies()["off"]
    assert (found[0].policy.gate, found[0].policy.pruner) == (off.gate, off.pruner)


def test_the_order_is_always_the_same() -> None:
    assert make_candidates(MEMORY, METHODS) == make_candidates(MEMORY, METHODS)


def test_methods_that_a_bundle_lacks_are_left_out() -> None:
    found = make_candidates(MEMORY, ("none",))
    assert {one.policy.pruner.method for one in found} == {"none"}
    assert found[0].name == BASELINE


def test_no_interval_is_longer_than_a_clip() -> None:
    policies = [one.policy for one in make_candidates(MEMORY, METHODS)]
    assert max(policy.gate.max_interval for policy in policies) == CLIP_FRAMES
    assert max(policy.cacher.interval for policy in policies) <= CLIP_FRAMES
