"""Canonical JSON: what is written is read back, and what is foreign is refused with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stc_export.spec.codec import MAX_INT, DecodeError, from_json, from_plain, to_json


@dataclass(frozen=True)
class Inner:
    name: str
    count: int | None = None


@dataclass(frozen=True)
class Outer:
    text: str
    number: float
    flag: bool
    mode: Literal["full", "selective", "skip"]
    shape: tuple[int | str, ...]
    items: tuple[Inner, ...]
    table: tuple[tuple[float, ...], ...] = ()
    inner: Inner = field(default_factory=lambda: Inner("default"))


@dataclass(frozen=True)
class Node:
    children: tuple[Node, ...]


WHOLE = st.integers(-MAX_INT, MAX_INT)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
INNER = st.builds(Inner, st.text(), st.none() | WHOLE)
OUTER = st.builds(
    Outer,
    text=st.text(),
    number=NUMBER,
    flag=st.booleans(),
    mode=st.sampled_from(["full", "selective", "skip"]),
    shape=st.lists(WHOLE | st.text(), max_size=3).map(tuple),
    items=st.lists(INNER, max_size=3).map(tuple),
    table=st.lists(st.lists(NUMBER, max_size=2).map(tuple), max_size=2).map(tuple),
    inner=INNER,
)
VALUE = Outer("a", 0.5, flag=True, mode="skip", shape=(1, "T"), items=(Inner("b", 2),), table=((1.0,),))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def plain(value: object) -> Any:
    return json.loads(to_json(value))


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places below the root of parsed JSON."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [found for key, value in pairs for found in ((*path, key), *places(value, (*path, key)))]


def replaced(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The same JSON with another value at a place."""
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = replaced(data[path[0]], path[1:], value)
    return copy


@given(OUTER)
def test_round_trip_any_value_is_equal_and_has_the_same_text(value: Outer) -> None:
    text = to_json(value)
    assert from_json(Outer, text) == value
    assert to_json(from_json(Outer, text)) == text


@given(OUTER)
def test_text_is_canonical_json_in_utf8(value: Outer) -> None:
    text = to_json(value)
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert from_json(Outer, text.encode().decode()) == value


@given(st.data())
def test_one_changed_place_reads_as_another_value_or_is_refused(data: st.DataObject) -> None:
    original = plain(VALUE)
    path = data.draw(st.sampled_from(places(original)))
    changed = replaced(original, path, data.draw(ANY_JSON))
    assume(changed != original)
    try:
        value = from_plain(Outer, changed)
    except DecodeError:
        return
    assert value != VALUE


@given(ANY_JSON)
def test_foreign_json_is_refused_or_read_never_anything_else(data: Any) -> None:
    try:
        from_json(Outer, json.dumps(data))
    except DecodeError:
        return
    raise AssertionError(f"read as an Outer: {data}")


@given(st.text())
def test_foreign_text_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        from_json(Inner, text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("text",), 1, "text is the number 1, expected a text"),
        (("text",), "\ud800", "text is not valid Unicode"),
        (("number",), "1", 'number is the text "1", expected a number'),
        (("number",), True, "number is true, expected a number"),
        (("number",), 10**400, "number is too large for a number"),
        (("flag",), 1, "flag is the number 1, expected true or false"),
        (("mode",), "selectiv", 'mode is "selectiv". Did you mean "selective"? Known: full, selective, skip'),
        (("mode",), None, "mode is null. Known: full, selective, skip"),
        (("mode",), {}, "mode is an object. Known: full, selective, skip"),
        (("shape",), "T", 'shape is the text "T", expected a list'),
        (("shape", 0), 1.0, "shape[0] is the number 1.0, expected a whole number"),
        (("shape", 0), 2**63, "shape[0] is too large for a whole number"),
        (("items", 0), [], "items[0] is a list, expected an object"),
        (("items", 0, "count"), False, "items[0].count is false, expected a whole number"),
        (("inner", "name"), 10**30, "inner.name is a number of many digits, expected a text"),
        (("table", 0, 0), None, "table[0][0] is null, expected a number"),
    ],
)
def test_wrong_value_is_refused_with_its_place(path: tuple[Any, ...], value: Any, message: str) -> None:
    changed = replaced(plain(VALUE), path, value)
    with pytest.raises(DecodeError) as caught:
        from_plain(Outer, changed)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a", "name": "a"}', 'key "name" appears twice'),
        ('{"name": "a", "count": NaN}', "NaN is not a number"),
        ('{"name": "a", "count": -Infinity}', "-Infinity is not a number"),
        ('{"nam": "a"}', 'document has the unknown key "nam". Did you mean "name"? Known: name, count'),
        ('{"count": 1}', 'document lacks the key "name"'),
        ("[]", "document is a list, expected an object"),
        ("null", "document is null, expected an object"),
    ],
)
def test_wrong_document_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        from_json(Inner, text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\ufeff{}",
        '{"name": "a"} x',
        "{'name': 'a'}",
        '{"name": "a", "count": 1e999}',
        '{"name": "a", "count": ' + "9" * 10_000 + "}",  # more digits than Python reads
        "[" * 100_000,
        '{"name": ' * 100_000,
        '{"' + "k" * 1_000_000 + '": 1}',
        '{"\\ud800": 1}',
    ],
    ids=lambda text: text[:20].replace("\ufeff", "BOM"),
)
def test_hostile_text_is_refused_in_a_short_message_that_can_be_printed(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        from_json(Inner, text)
    assert len(str(caught.value).encode()) < 300


def test_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(DecodeError) as caught:
        from_plain(Outer, replaced(plain(VALUE), ("mode",), "x" * 1_000_000))
    assert str(caught.value) == f'mode is "{"x" * 40}...". Known: full, selective, skip'


@pytest.mark.parametrize(("depth", "fits"), [(11, True), (12, False), (400, False)])
def test_nesting_is_read_to_a_fixed_depth_only(depth: int, fits: bool) -> None:
    text = '{"children": [' * depth + '{"children": []}' + "]}" * depth
    if fits:
        assert to_json(from_json(Node, text)).count("children") == depth + 1
    else:
        with pytest.raises(DecodeError, match=r"nests deeper than 24$"):
            from_json(Node, text)


def test_whole_number_where_a_number_is_expected_reads_as_float() -> None:
    value = from_plain(Outer, replaced(plain(VALUE), ("number",), 3))
    assert isinstance(value.number, float)
    assert value.number == 3.0


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_number_that_is_not_finite_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(Outer("a", number, flag=True, mode="skip", shape=(), items=()))
