"""``--sweep KEY=A,B,C``: from texts to the policies that are compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_type_hints

from stc_export.spec import codec
from stc_export.spec.errors import PolicyError, UsageError, nearest
from stc_export.spec.policy import Policy, named_policies
from stc_export.validate.types import Setting

#: Names of the uncompressed baseline, and of the base policy when nothing is swept.
BASELINE = "off"
BASE = "base"


@dataclass(frozen=True)
class Axis:
    """The values of one key of the policy.

    Attributes:
        key: Section and field, e.g. ``pruner.keep``.
        texts: The values as they were typed.
        values: The values, each of the field's type.
    """

    key: str
    texts: tuple[str, ...]
    values: tuple[object, ...]


def parse_axis(text: str) -> Axis:
    """Read one ``KEY=A,B,C``.

    Raises:
        UsageError: There is no ``=`` or no value, or a value appears twice.
        PolicyError: A key that no policy has, or a value that it cannot have.
    """
    key, equals, rest = text.partition("=")
    key, texts = key.strip(), tuple(part.strip() for part in rest.split(","))
    if not equals or not all(texts):
        raise UsageError(
            f'--sweep is "{text}", expected a key of the policy and its values.',
            "Write for example --sweep pruner.keep=1.0,0.5,0.3.",
        )
    if key not in policy_keys():
        raise PolicyError(f'A policy has no key "{key}".', nearest(key, policy_keys()))
    values = tuple(_value(key, part) for part in texts)
    if len(set(values)) < len(values):
        raise UsageError(f'--sweep is "{text}", which has a value twice.', "Name each value once.")
    return Axis(key, texts, values)


def policy_keys() -> tuple[str, ...]:
    """Return every dotted key of a policy."""
    sections = get_type_hints(Policy)
    return tuple(f"{name}.{field.name}" for name, section in sections.items() for field in dataclasses.fields(section))


def make_settings(base: Policy, axes: Sequence[Axis]) -> tuple[Setting, ...]:
    """Return the baseline, then the product of all values over the base policy.

    The baseline has the base policy's memory, so that both remember as much. What equals it is not run twice.

    Args:
        base: Policy whose other keys stay.
        axes: What varies.

    Raises:
        UsageError: Two axes have the same key.
    """
    keys = [axis.key for axis in axes]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise UsageError(f"--sweep names {twice[0]} twice.", f"Put its values in one: --sweep {twice[0]}=A,B.")
    baseline = Setting(BASELINE, replace(named_policies()[BASELINE], memory=base.memory))
    swept = [_setting(base, keys, chosen) for chosen in product(*(_choices(axis) for axis in axes))]
    return (baseline, *(setting for setting in swept if setting.policy != baseline.policy))


def _choices(axis: Axis) -> list[tuple[str, object]]:
    return list(zip(axis.texts, axis.values, strict=True))


def _setting(base: Policy, keys: Sequence[str], chosen: Sequence[tuple[str, object]]) -> Setting:
    policy = _with(base, {key: value for key, (_, value) in zip(keys, chosen, strict=True)})
    name = ", ".join(f"{key}={text}" for key, (text, _) in zip(keys, chosen, strict=True))
    return Setting(name or BASE, policy)


def _with(policy: Policy, values: Mapping[str, object]) -> Policy:
    """Return a policy with other values, all set at once: one may not go with what another had before."""
    fields: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, field = key.partition(".")
        fields.setdefault(section, {})[field] = value
    parts: dict[str, Any] = {name: replace(getattr(policy, name), **changed) for name, changed in fields.items()}
    return replace(policy, **parts)


def _value(key: str, text: str) -> object:
    """Read a value as the policy's JSON would have it; the policy checks the range itself."""
    section, _, field = key.partition(".")
    # The base policy may differ from the default: gate mode paper goes with every value of another key.
    others: dict[str, object] = {"gate": {"mode": "paper"}}
    try:
        policy = codec.from_plain(Policy, {**others, section: {field: _plain(key, text)}})
    except codec.DecodeError as error:
        raise PolicyError(f"--sweep: {error}.", "Every key and its range is in docs/policy.md.") from error
    return getattr(getattr(policy, section), field)


def _plain(key: str, text: str) -> object:
    section, _, field = key.partition(".")
    default = getattr(getattr(Policy(), section), field)
    if isinstance(default, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
