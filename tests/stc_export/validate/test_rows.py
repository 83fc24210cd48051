"""Lines of results: what is written is read, whatever cuts the file, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.validate.rows import ReadRows, SettingClip, read_rows, write_rows
from stc_export.validate.types import Answered, ClipFidelity, ClipOutcome, StageTimes, Work

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
TIMES = StageTimes((4.0,), (1.0,), (2.0,), (), (0.5,), (0.5,), (), (3.25,))


def a_clip(setting: str, name: str, texts: list[str]) -> SettingClip:
    answers = tuple(
        Answered(name, n, "kind", "group", "A", given := text.strip()[:1], given == "A", text)
        for n, text in enumerate(texts)
    )
    return SettingClip(setting, ClipOutcome(name, answers, Work(1, 1, 0, 25, 25, 9, 3), TIMES))


@given(st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=3)), max_size=4), st.integers(0, 10_000))
def test_a_file_that_is_cut_anywhere_gives_the_clips_before_the_cut(
    plans: list[tuple[str, str, list[str]]], cut: int
) -> None:
    clips = [a_clip(*plan) for plan in plans]
    parts = [write_rows(clip) for clip in clips]
    data = b"".join(parts)
    assert read_rows(data).clips == tuple(clips)
    cut = min(cut, len(data))
    ends = [sum(map(len, parts[: count + 1])) for count in range(len(parts))]
    whole = sum(end <= cut for end in ends)
    found = read_rows(data[:cut])
    assert found.clips == tuple(clips[:whole])
    assert found.size_bytes == (ends[whole - 1] if whole else 0)
    assert read_rows(data[: found.size_bytes] + b"".join(parts[whole:])).clips == tuple(clips)


def test_the_fidelity_of_a_clip_is_read_as_it_was_written_and_may_be_missing() -> None:
    plain = a_clip("base", "film.mp4", ["A"])
    found = ClipFidelity((0.5, 1.0), (0.25, 0.0), (0.75,), (0.125,), (True,), (0.0625,))
    whole = replace(plain, outcome=replace(plain.outcome, fidelity=found))
    assert read_rows(write_rows(whole)).clips == (whole,)
    older = b"".join(
        json.dumps({key: value for key, value in json.loads(line).items() if key != "fidelity"}).encode() + b"\n"
        for line in write_rows(plain).splitlines()
    )
    assert read_rows(older).clips == (plain,)


def test_a_row_of_a_question_has_the_promised_keys() -> None:
    first = json.loads(write_rows(a_clip("off", "test/0", ["B."])).splitlines()[0])
    assert first == {
        "kind": "question",
        "setting": "off",
        "clip": "test/0",
        "number": 0,
        "template": "kind",
        "group": "group",
        "right": "A",
        "given": "B",
        "correct": False,
        "text": "B.",
    }


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"",
        b"\xff",
        b'{"kind": "other"}',
        b'{"kind": ["clip"]}',
        b'{"kind": "clip"}',
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_a_foreign_line_is_refused_with_its_number(line: bytes) -> None:
    rows = write_rows(a_clip("off", "test/0", ["A"]))
    with pytest.raises(ValueError, match=r"^line 3: "):
        read_rows(rows + line + b"\n" + rows)


def test_questions_about_another_clip_are_refused() -> None:
    question, _ = write_rows(a_clip("off", "test/0", ["A"])).splitlines(keepends=True)
    with pytest.raises(ValueError, match='the clip "test/1" follows questions about another'):
        read_rows(question + write_rows(a_clip("off", "test/1", ["A"])))


@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    if b"\n" not in data:
        assert read_rows(data) == ReadRows((), 0)
        return
    with pytest.raises(ValueError, match=r"^line \d+: "):  # no byte string that is drawn is a row
        read_rows(data)
