"""docs/policy.md against stc_export/spec/policy.py."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest

from stc_export.pruners import ATTENTION_PRUNERS, PRUNERS
from stc_export.spec import codec, policy
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.errors import PolicyError
from stc_export.spec.memory import kept_tokens
from stc_runtime.footprint import kv_bytes
from tests.docs.pages import DOCS, blocks, code, read, table_rows

PAGE = DOCS / "policy.md"
ROWS = {code(row[0])[0]: row for row in table_rows(read(PAGE))}
#: Range on the page -> numbers inside and outside of it.
NUMBERS: dict[str, tuple[tuple[float | None, ...], tuple[float, ...]]] = {
    "(0, 1]": ((1e-6, 1.0), (0.0, 1.001, -0.1)),
    "[0, 1]": ((0.0, 1.0), (-0.001, 1.001)),
    "at least 0": ((0, 10**9), (-1,)),
    "at least 1": ((1, 10**9), (0, -1)),
    "at least 1, or null": ((None, 1, 10**9), (0, -1)),
    "at least 16": ((16, 10**9), (15, 0)),
}


def keys() -> dict[str, tuple[Any, object]]:
    """Type and default of every key, from the dataclasses."""
    found = {}
    for section, part in typing.get_type_hints(policy.Policy).items():
        hints = typing.get_type_hints(part)
        for field in dataclasses.fields(part):
            found[f"{section}.{field.name}"] = (hints[field.name], field.default)
    return found


def policy_with(key: str, value: object) -> policy.Policy:
    section, name = key.split(".")
    # Gate mode paper goes with every value of another key.
    return policy.policy_from_text(json.dumps({"gate": {"mode": "paper"}, section: {name: value}}), "page")


def test_page_has_every_key_and_no_other() -> None:
    assert sorted(ROWS) == sorted(keys())


@pytest.mark.parametrize("key", keys())
def test_default_on_the_page_is_the_default(key: str) -> None:
    assert json.loads(code(ROWS[key][2])[0]) == keys()[key][1]


@pytest.mark.parametrize("key", keys())
def test_range_on_the_page_is_the_range(key: str) -> None:
    cell, hint = ROWS[key][1], keys()[key][0]
    inside: tuple[object, ...]
    outside: tuple[object, ...]
    if typing.get_origin(hint) is typing.Literal:
        assert set(code(cell)) == set(typing.get_args(hint))
        inside, outside = typing.get_args(hint), ("other",)
    elif key == "pruner.method":
        assert set(code(cell)) == {method.name for method in (*PRUNERS, *ATTENTION_PRUNERS)}
        inside, outside = tuple(code(cell)), ()
    else:
        inside, outside = NUMBERS[cell]
    for value in inside:
        policy_with(key, value)
    for value in outside:
        with pytest.raises(PolicyError):
            policy_with(key, value)


def test_named_policies_on_the_page_are_those_of_the_code() -> None:
    named = policy.named_policies()
    shown = [block for block in blocks(PAGE, "json") if '"interval"' in block]
    assert shown == [codec.to_json(named[name]) for name in ("adaptive", "fast", "paper", "off")]
    assert len(shown) == len(named)


def test_example_is_a_policy_and_its_figures_are_right() -> None:
    example = policy.policy_from_text(blocks(PAGE, "json")[-1], "kitchen.json")
    assert (example.gate.tau, example.gate.max_interval, example.pruner.history) == (0.8, 30, 60)
    kept = kept_tokens(196, example.pruner.keep)
    assert kept == 39
    assert {((example.memory.kv_tokens or 0) - prompt) // kept for prompt in range(3, 40)} == {104}
    vision = VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26)
    qwen2_half_b = TextDims(896, 4864, 14, 2, 64, 24, 151936, 32768, 1e6)
    bytes_ = kv_bytes(ModelDims(vision, qwen2_half_b), 4096 + example.memory.answer_tokens, "float16", "floats")
    assert round(bytes_ / 1e6, 1) == 53.5
