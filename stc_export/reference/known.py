"""Which keys of a policy the reference knows: one that is added for bundles must not pass unnoticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from stc_export.spec.errors import UnsupportedError
from stc_export.spec.policy import Policy

_KNOWN: Mapping[str, frozenset[str]] = {
    "gate": frozenset({"mode", "tau", "margin", "cut", "floor", "max_interval", "warmup", "bucket"}),
    "cacher": frozenset({"selection", "update", "interval", "update_ratio", "metric", "gain", "drift"}),
    "pruner": frozenset({"method", "keep", "alpha", "history", "seed", "budget", "threshold"}),
    "memory": frozenset({"kv_tokens", "answer_tokens", "positions", "frames"}),
}


def check_known(policy: Policy) -> None:
    """Check that every key that the reference does not know has its default.

    Raises:
        UnsupportedError: One has not.
    """
    default = Policy()
    for field in fields(policy):
        section, usual = getattr(policy, field.name), getattr(default, field.name)
        known = _KNOWN.get(field.name, frozenset())
        for key in (one.name for one in fields(section) if one.name not in known):
            if getattr(section, key) != getattr(usual, key):
                raise UnsupportedError(
                    f"{field.name}.{key} is {getattr(section, key)!r}, which the original model does not know.",
                    f"Leave out {field.name}.{key}, or leave out --reference.",
                )
