from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.cli.text import amount_text, bytes_text, facts, one_line, table, without_controls


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (25_276_514_304, "25.3 GB"),
        (3_000_000_000_000, "3 TB"),
    ],
)
def test_bytes_text_has_three_digits_in_decimal_units(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("done", "total", "unit", "text"),
    [(3, 8, "frames", "3 of 8 frames"), (3, None, "", "3"), (5, 1000, "B", "5 B of 1 kB"), (5, None, "B", "5 B")],
)
def test_amount_text_shows_total_only_when_known(done: int, total: int | None, unit: str, text: str) -> None:
    assert amount_text(done, total, unit) == text


def test_table_aligns_text_left_and_numbers_right_without_trailing_space() -> None:
    text = table(("name", "ms"), [("a", "10.0"), ("long name", "1.0")], right=(1,))
    assert text.splitlines() == ["name         ms", "a          10.0", "long name   1.0"]


def test_table_without_rows_is_its_header() -> None:
    assert table(("a", "b"), []) == "a  b"


def test_facts_align_values() -> None:
    assert facts([("a", "1"), ("long", "2")]) == "a     1\nlong  2"


@given(st.text())
def test_without_controls_keeps_everything_else(text: str) -> None:
    cleaned = without_controls(text)
    assert [c for c in text if ord(c) >= 160 or 32 <= ord(c) < 127 or c in "\t\n"] == list(cleaned)


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1
