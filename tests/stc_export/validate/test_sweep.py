"""From ``--sweep`` to policies: every value that a policy can have, every product, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec.errors import PolicyError, StcError, UsageError
from stc_export.spec.policy import MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_export.validate.sweep import make_settings, parse_axis, policy_keys
from tests.docs.pages import DOCS, code, read, table_rows

SHARES = st.floats(0.001, 1.0)


def test_policy_keys_are_those_of_the_policy_page() -> None:
    assert sorted(policy_keys()) == sorted(code(row[0])[0] for row in table_rows(read(DOCS / "policy.md")))


@given(st.lists(SHARES, min_size=1, max_size=4, unique=True), st.lists(st.integers(1, 99), min_size=1, unique=True))
def test_settings_are_the_product_of_all_values_after_the_baseline(keeps: list[float], intervals: list[int]) -> None:
    texts = [f"pruner.keep={','.join(map(repr, keeps))}", f"cacher.interval={','.join(map(str, intervals))}"]
    settings = make_settings(Policy(), [parse_axis(text) for text in texts])
    assert settings[0].name == "off"
    assert settings[0].policy == named_policies()["off"]
    found = [(setting.policy.pruner.keep, setting.policy.cacher.interval) for setting in settings[1:]]
    assert found == [(keep, interval) for keep in keeps for interval in intervals]
    assert len({setting.name for setting in settings}) == len(settings)


@given(st.text())
def test_any_text_is_read_or_refused_with_an_error_of_ours(text: str) -> None:
    with pytest.raises(StcError):
        parse_axis(f"pruner.keep={text}x")
    try:
        parse_axis(text)
        parse_axis(f"memory.kv_tokens={text}")
    except StcError:
        pass


def test_values_have_the_types_of_their_fields() -> None:
    assert parse_axis("pruner.method=random, none").values == ("random", "none")
    assert parse_axis("memory.kv_tokens=null,64").values == (None, 64)
    assert parse_axis("pruner.keep=1").values == (1.0,)
    assert parse_axis("pruner.budget=fixed,vidcom2").values == ("fixed", "vidcom2")


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("pruner.keep", UsageError, "pruner.keep"),
        ("pruner.keep=", UsageError, "pruner.keep="),
        ("pruner.keep=0.5,,1", UsageError, "0.5,,1"),
        ("pruner.keep=0.5,0.50", UsageError, "twice"),
        ("pruner.kepe=0.5", PolicyError, 'Did you mean "pruner.keep"'),
        ("pruner.keep=half", PolicyError, 'pruner.keep is the text "half"'),
        ("pruner.keep=1.5", PolicyError, "pruner.keep is 1.5"),
        ("pruner.keep=NaN", PolicyError, "pruner.keep is not finite"),
        ("cacher.interval=1.5", PolicyError, "cacher.interval is the number 1.5"),
        ("cacher.interval=true", PolicyError, "cacher.interval is true"),
        ("gate.mode=adaptiv", PolicyError, 'Did you mean "adaptive"'),
    ],
)
def test_what_no_policy_can_have_is_refused(text: str, kind: type[StcError], told: str) -> None:
    with pytest.raises(kind, match=re.escape(told)):
        parse_axis(text)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_values_that_go_together_only_are_set_at_once(order: tuple[int, int]) -> None:
    axes = [parse_axis("cacher.metric=cosine,l2"), parse_axis("gate.mode=paper")]
    settings = make_settings(Policy(), [axes[place] for place in order])
    assert [setting.policy.cacher.metric for setting in settings] == ["cosine", "cosine", "l2"]
    with pytest.raises(PolicyError, match=r"gate\.mode \"adaptive\" compares the cosine"):
        make_settings(Policy(), axes[:1])


def test_the_same_key_twice_is_refused() -> None:
    axes = [parse_axis("pruner.keep=1.0"), parse_axis("pruner.keep=0.5")]
    with pytest.raises(UsageError, match=r"names pruner\.keep twice"):
        make_settings(Policy(), axes)


def test_baseline_remembers_as_much_as_the_base_policy() -> None:
    base = Policy(memory=MemoryPolicy(kv_tokens=77))
    settings = make_settings(base, [])
    assert [setting.name for setting in settings] == ["off", "base"]
    assert settings[0].policy.memory.kv_tokens == 77
    assert settings[1].policy == base


def test_a_setting_that_is_the_baseline_runs_once() -> None:
    off = named_policies()["off"]
    assert [s.name for s in make_settings(off, [])] == ["off"]
    settings = make_settings(off, [parse_axis("pruner.method=none,random")])
    assert [s.policy.pruner for s in settings] == [off.pruner, PrunerPolicy(method="random", keep=1.0)]
