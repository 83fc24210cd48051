"""The same settings in the original model and in other bundles, and which of them belong together."""

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


def with_others(settings: Sequence[Setting], labels: Sequence[str]) -> tuple[Setting, ...]:
    """Return settings, then each that a bundle runs in the other bundles, too.

    Args:
        settings: Settings of the first bundle, and maybe of the original model.
        labels: What the other bundles are called.
    """
    own = [one for one in settings if one.engine == "bundle"]
    others = (replace(one, name=f"{label}: {one.name}", bundle=label) for label in labels for one in own)
    return (*settings, *others)


def baselines(settings: Sequence[Setting]) -> dict[Engine, Setting]:
    """Return what the settings of each engine are compared with: the first one of it."""
    return {one.engine: one for one in reversed(settings)}


def twins(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    """Return each setting of the first bundle that runs in the original model, too, with that one."""
    originals = {one.name: one for one in settings if one.engine == "torch"}
    return [
        (one, originals[twin])
        for one in settings
        if one.engine == "bundle" and (twin := f"{PREFIX}{one.name}") in originals
    ]


def other_bundles(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    """Return each setting of another bundle with the same one of the first."""
    first = {one.policy: one for one in settings if one.engine == "bundle" and not one.bundle}
    return [(one, first[one.policy]) for one in settings if one.bundle]
