"""Policies: ranges, named ones, and files."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec.codec import to_json
from stc_export.spec.errors import PolicyError
from stc_export.spec.policy import (
    METRIC_NAMES,
    CacherPolicy,
    GatePolicy,
    MemoryPolicy,
    Policy,
    PrunerPolicy,
    named_policies,
    policy_from_argument,
    policy_from_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.spec.policy import Metric

SHARE = st.floats(0.0, 1.0)
OPEN_SHARE = st.floats(0.0, 1.0, exclude_min=True)
COUNT = st.integers(1, 10**6)
ANY_POLICY = st.builds(
    dict,
    gate=st.builds(
        GatePolicy,
        st.sampled_from(["off", "paper", "adaptive"]),
        tau=OPEN_SHARE,
        margin=st.integers(0, 10**6),
        cut=SHARE,
        floor=SHARE,
        max_interval=COUNT,
        warmup=COUNT,
        bucket=COUNT,
    ),
    cacher=st.builds(
        CacherPolicy,
        st.sampled_from(["gate", "per_layer", "shared"]),
        st.sampled_from(["reference", "rolling"]),
        COUNT,
        OPEN_SHARE,
        st.sampled_from(METRIC_NAMES),
        OPEN_SHARE,
        SHARE,
    ),
    pruner=st.sampled_from(["fixed", "vidcom2", "dtd", "evs", "dycoke"]).flatmap(
        lambda budget: st.builds(
            PrunerPolicy,
            st.text(),
            st.floats(0.25, 1.0) if budget == "dycoke" else OPEN_SHARE,
            SHARE,
            COUNT,
            st.integers(0, 2**63 - 1),
            st.just(budget),
            SHARE,
        )
    ),
    memory=st.builds(
        MemoryPolicy,
        st.none() | COUNT,
        st.integers(16, 10**6),
        st.sampled_from(["contiguous", "original"]),
        st.none() | COUNT,
    ),
)
POLICY = ANY_POLICY.filter(lambda parts: parts["gate"].mode != "adaptive" or parts["cacher"].metric == "cosine").map(
    lambda parts: Policy(**parts)
)
#: Key, a value just outside the range, and what is said about it.
SHARES = ("gate.cut", "gate.floor", "cacher.drift", "pruner.alpha", "pruner.threshold")
OPEN_SHARES = ("gate.tau", "cacher.update_ratio", "cacher.gain", "pruner.keep")
LEASTS = (
    ("gate.max_interval", 1),
    ("gate.warmup", 1),
    ("gate.bucket", 1),
    ("gate.margin", 0),
    ("cacher.interval", 1),
    ("pruner.history", 1),
    ("pruner.seed", 0),
    ("memory.answer_tokens", 16),
    ("memory.kv_tokens", 1),
    ("memory.frames", 1),
)
CHOICES = (
    ("gate.mode", "adaptiv", 'Did you mean "adaptive"? Known: off, paper, adaptive.'),
    ("cacher.selection", "layer", 'Did you mean "per_layer"? Known: gate, per_layer, shared.'),
    ("cacher.update", "never", "Known: reference, rolling."),
    ("cacher.metric", "cosin", 'Did you mean "cosine"? Known: cosine, l1, l2, dot.'),
    ("pruner.budget", "vidcom", 'Did you mean "vidcom2"? Known: fixed, vidcom2, dtd, evs, dycoke.'),
    ("memory.positions", "orignal", 'Did you mean "original"? Known: contiguous, original.'),
)


def with_value(key: str, value: Any) -> Policy:
    section, name = key.split(".")
    policy = Policy()
    return replace(policy, **{section: replace(getattr(policy, section), **{name: value})})


def file_text(key: str, value: Any) -> str:
    section, name = key.split(".")
    return json.dumps({section: {name: value}})


@given(POLICY)
def test_policy_in_its_ranges_is_read_back_from_its_text(policy: Policy) -> None:
    assert policy_from_text(to_json(policy), "x") == policy


@pytest.mark.parametrize("key", SHARES)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_share_outside_zero_to_one_is_refused(key: str, value: float) -> None:
    with pytest.raises(PolicyError) as caught:
        with_value(key, value)
    assert caught.value.problem == f"{key} is {value:g}, expected a number from 0 to 1."
    assert caught.value.fix == f"Set {key} inside that range."


@pytest.mark.parametrize("key", OPEN_SHARES)
@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan")])
def test_open_share_of_zero_or_outside_is_refused(key: str, value: float) -> None:
    with pytest.raises(PolicyError) as caught:
        with_value(key, value)
    assert caught.value.problem == f"{key} is {value:g}, expected a number above 0 and at most 1."


@pytest.mark.parametrize("key", SHARES)
def test_share_bounds_are_inside(key: str) -> None:
    assert [with_value(key, bound) for bound in (0.0, 1.0)]


@pytest.mark.parametrize("key", OPEN_SHARES)
def test_open_share_bounds_are_smallest_positive_and_one(key: str) -> None:
    assert [with_value(key, bound) for bound in (5e-324, 1.0)]


@pytest.mark.parametrize(("key", "least"), LEASTS)
def test_count_below_its_least_is_refused_and_the_least_is_not(key: str, least: int) -> None:
    assert with_value(key, least)
    for value in (least - 1, -1):
        with pytest.raises(PolicyError) as caught:
            with_value(key, value)
        assert caught.value.problem == f"{key} is {value}, expected at least {least}."
        assert caught.value.fix == f"Raise {key}."


@pytest.mark.parametrize(("key", "value", "choices"), CHOICES)
def test_unknown_choice_is_refused_in_python_and_in_a_file(key: str, value: str, choices: str) -> None:
    with pytest.raises(PolicyError) as caught:
        with_value(key, value)
    assert (caught.value.problem, caught.value.fix) == (f'{key} is "{value}".', choices)
    with pytest.raises(PolicyError) as caught:
        policy_from_text(file_text(key, value), "my.json")
    assert caught.value.problem == f'Policy "my.json" cannot be used: {key} is "{value}". {choices}'


def test_dycoke_below_a_quarter_is_refused_and_a_quarter_is_not() -> None:
    assert replace(Policy(), pruner=PrunerPolicy(budget="dycoke", keep=0.25))
    with pytest.raises(PolicyError) as caught:
        Policy(pruner=PrunerPolicy(budget="dycoke", keep=0.2))
    assert caught.value.problem == (
        'pruner.keep is 0.2, but the budget "dycoke" keeps the first of each four frames whole: at least 0.25 of all '
        "tokens."
    )
    assert caught.value.fix == "Set pruner.keep to at least 0.25, or choose another pruner.budget."


def test_every_field_of_a_policy_is_covered_above() -> None:
    checked = {*SHARES, *OPEN_SHARES, *(row[0] for row in LEASTS), *(row[0] for row in CHOICES)}
    fields = {f"{section}.{name}" for section, part in vars(Policy()).items() for name in vars(part)}
    assert fields - checked == {"pruner.method"}  # a bundle says which it has


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"gate": {"tao": 0.5}}', 'gate has the unknown key "tao". Did you mean "tau"? Known: mode, tau, margin,'),
        ('{"gatte": {}}', 'document has the unknown key "gatte". Did you mean "gate"? Known: gate, cacher, pruner,'),
        ('{"gate": {"tau": "high"}}', 'gate.tau is the text "high", expected a number.'),
        ('{"gate": {"max_interval": 2.5}}', "gate.max_interval is the number 2.5, expected a whole number."),
        ('{"memory": {"kv_tokens": true}}', "memory.kv_tokens is true, expected a whole number."),
        ('{"gate": {}, "gate": {}}', 'key "gate" appears twice.'),
        ('{"gate": {"tau": NaN}}', "NaN is not a number."),
        ("[]", "document is a list, expected an object."),
        ("", "not valid JSON (Expecting value: line 1 column 1 (char 0))."),
        ('{"pruner": {"history": ' + "9" * 5000 + "}}", "not valid JSON (Exceeds the limit"),
    ],
)
def test_file_that_is_not_a_policy_is_refused_with_place_and_page(text: str, reason: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_from_text(text, "my.json")
    assert caught.value.problem.startswith(f'Policy "my.json" cannot be used: {reason}')
    assert caught.value.problem.count("..") == 0
    assert caught.value.fix == "Correct the file; every key and its range is in docs/policy.md."


def test_file_with_a_value_out_of_range_names_it() -> None:
    with pytest.raises(PolicyError, match=r"^pruner\.keep is 2, expected a number above 0 and at most 1\."):
        policy_from_text('{"pruner": {"keep": 2}}', "my.json")


@given(st.text())
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    try:
        policy_from_text(text, "x")
    except PolicyError:
        return
    assert json.loads(text) == {}


def test_empty_object_is_the_default_policy() -> None:
    assert policy_from_text("{}", "x") == Policy() == named_policies()["adaptive"]


def test_named_policy_paper_is_the_published_operating_point() -> None:
    paper = named_policies()["paper"]
    assert (paper.gate.mode, paper.cacher) == ("paper", CacherPolicy("per_layer", "reference", 2, 0.25))
    assert paper.pruner.keep == 0.3


def test_named_policy_off_keeps_everything() -> None:
    off = named_policies()["off"]
    assert (off.gate.mode, off.pruner.method, off.pruner.keep) == ("off", "none", 1.0)


def test_argument_is_a_name_first_then_a_file(tmp_path: Path) -> None:
    file = tmp_path / "paper"
    file.write_text('{"pruner": {"keep": 0.125}}', encoding="utf-8")
    assert policy_from_argument("paper", file) == named_policies()["paper"]
    assert policy_from_argument(str(file), file).pruner.keep == 0.125


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_argument_that_is_neither_names_the_nearest_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "adaptve"
    if kind == "folder":
        path.mkdir()
    if kind == "binary":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError) as caught:
        policy_from_argument("adaptve", path)
    assert caught.value.problem == 'Policy "adaptve" is neither a named policy nor a readable file.'
    assert caught.value.fix == 'Did you mean "adaptive"? Known: adaptive, fast, paper, off.'


@pytest.mark.parametrize("metric", [name for name in METRIC_NAMES if name != "cosine"])
def test_metric_beside_the_cosine_is_refused_where_tau_is_a_cosine_and_nowhere_else(metric: Metric) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(cacher=CacherPolicy(metric=metric))
    told = f'cacher.metric is "{metric}", but gate.mode "adaptive" compares the cosine with gate.tau.'
    assert (caught.value.problem, caught.value.fix) == (
        told,
        'Set gate.mode to "paper", or cacher.metric to "cosine".',
    )
    for mode in ("paper", "off"):
        assert Policy(GatePolicy(mode=mode), CacherPolicy(metric=metric)).cacher.metric == metric  # type: ignore[arg-type]
