"""The same settings in the original model, and what the two together say of the conversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stc_export.reference.methods import REFERENCE_METHODS
from stc_export.validate.types import Engine, Setting

#: Before the name of a setting that runs in the original model.
PREFIX = "torch: "


def with_originals(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """Return the settings that a bundle can run, then all of them in the original model."""
    exported = [one for one in settings if one.policy.pruner.method not in REFERENCE_METHODS]
    return (*exported, *(replace(one, name=f"{PREFIX}{one.name}", engine="torch") for one in settings))


def baselines(settings: Sequence[Setting]) -> dict[Engine, Setting]:
    """Return what the settings of each engine are compared with: the first one of it."""
    return {one.engine: one for one in reversed(settings)}


def twins(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    """Return each setting of the bundle that runs in the original model, too, with that one."""
    originals = {one.name: one for one in settings if one.engine == "torch"}
    return [
        (one, originals[twin])
        for one in settings
        if one.engine == "bundle" and (twin := f"{PREFIX}{one.name}") in originals
    ]
