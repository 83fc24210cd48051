"""Annotation files that are damaged or of somebody else: an error that names file and entry, never a traceback."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.spec.errors import UsageError
from stc_export.validate.benchmarks import egoschema, mlvu, mvbench, ovo_bench, rekv, streamingbench, videomme
from stc_export.validate.benchmarks.annotations import Annotated
from stc_export.validate.benchmarks.reading import Reader
from tests.stc_export.validate.benchmarks import data as fixtures

FIRST_FILES: dict[str, tuple[Reader, str, Any]] = {
    "ovo_bench": (ovo_bench.read, "ovo_bench_new.json", fixtures.OVO),
    "streamingbench": (streamingbench.read, "questions_real.json", fixtures.STREAMINGBENCH),
    "streamingbench_history": (streamingbench.read_history, "questions_real.json", fixtures.STREAMINGBENCH),
    "egoschema": (egoschema.read, "questions.json", fixtures.EGOSCHEMA),
    "videomme": (videomme.read, "videomme.json", fixtures.VIDEOMME),
    "rekv": (rekv.read, "dev_debug_mc.json", fixtures.REKV),
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\x00", "\ud800", "../x"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def read_text(task: str, text: str) -> Annotated | UsageError:
    reader, name, _ = FIRST_FILES[task]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        if task == "egoschema":
            fixtures.write_json(Path(folder) / "subset_answers.json", {"uid-1": 0})
        try:
            return reader(Path(folder), 1.0)
        except UsageError as error:
            return error


@pytest.mark.parametrize("task", FIRST_FILES)
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", "[1]", "[[]]", "[{}]", '["\\ud800"]', "\x00", "[" * 100_000, "[NaN]", "1" * 5000],
)
def test_what_is_no_list_of_entries_is_refused(task: str, text: str) -> None:
    assert isinstance(read_text(task, text), UsageError)


@settings(max_examples=40)
@pytest.mark.parametrize("task", FIRST_FILES)
@given(value=VALUES, draw=st.data())
def test_any_value_in_the_place_of_any_other_is_read_or_refused(task: str, value: object, draw: st.DataObject) -> None:
    entries = copy.deepcopy(FIRST_FILES[task][2])
    place = draw.draw(st.sampled_from(places(entries)))
    holder: Any = entries
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    found = read_text(task, json.dumps(entries))
    if isinstance(found, Annotated):
        assert all(clip.questions for clip in found.clips)


@pytest.mark.parametrize("task", FIRST_FILES)
@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=20)
def test_a_file_that_is_cut_anywhere_is_refused(task: str, cut: float) -> None:
    whole = json.dumps(FIRST_FILES[task][2])
    assert isinstance(read_text(task, whole[: int(cut * len(whole))]), UsageError)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside a JSON document."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    return [way for key, inner in items for way in [(*path, key), *places(inner, (*path, key))]]


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("ovo_bench", lambda e: e[1].update(task="XYZ"), 'entry 2: its task is "XYZ", expected one of EPM'),
        ("ovo_bench", lambda e: e[0].update(gt=3), "entry 1: in a question of EPM, gt is 3 with 3 options"),
        ("ovo_bench", lambda e: e[0].pop("options"), "entry 1: in a question of EPM, options is missing"),
        ("ovo_bench", lambda e: e[2]["test_info"][1].pop("count"), "test_info[1].count is missing"),
        ("ovo_bench", lambda e: e[3]["test_info"][0].update(type=2), "test_info[0].type is 2, not 0 or 1"),
        ("streamingbench", lambda e: e[1]["questions"][0].update(time_stamp="noon"), 'entry 2: time_stamp is "noon"'),
        ("streamingbench", lambda e: e[0]["questions"][0].pop("answer"), 'questions[0] lacks the key "answer"'),
        ("egoschema", lambda e: e[2].pop("option 4"), 'entry 3: document lacks the key "option_4"'),
        ("videomme", lambda e: e[0].update(answer="E"), 'entry 1: answer "E" of 4 options'),
        ("rekv", lambda e: e[1]["conversations"][0].update(answer="7"), 'entry 2: the answer "7" is none of its 2'),
        ("rekv", lambda e: e[0]["conversations"][0].pop("choices"), "open answers need a judge"),
    ],
)
def test_the_entry_and_what_was_expected_are_named(task: str, change: Any, told: str) -> None:
    entries = copy.deepcopy(FIRST_FILES[task][2])
    change(entries)
    found = read_text(task, json.dumps(entries))
    assert isinstance(found, UsageError)
    assert told in found.problem


@pytest.mark.parametrize(
    ("reader", "write", "file"),
    [(mlvu.read, fixtures.mlvu, "json/3_ego.json"), (mvbench.read, fixtures.mvbench, "json/state_change.json")],
)
def test_one_damaged_file_of_many_is_named(tmp_path: Path, reader: Reader, write: Any, file: str) -> None:
    write(tmp_path)
    entries = json.loads((tmp_path / file).read_text())
    fixtures.write_json(tmp_path / file, [{**entries[0], "answer": "none of them"}])
    with pytest.raises(UsageError, match=f'{file}" cannot be used: entry 1: the answer "none of them"'):
        reader(tmp_path, 1.0)


def test_egoschema_answers_that_are_no_option_are_refused(tmp_path: Path) -> None:
    fixtures.egoschema(tmp_path)
    for answers in ({"uid-1": 5}, {"uid-1": "0"}, {"uid-1": True}, ["uid-1"], {"other": 1}):
        fixtures.write_json(tmp_path / "subset_answers.json", answers)
        with pytest.raises(UsageError, match="cannot be used"):
            egoschema.read(tmp_path, 1.0)


def test_a_video_path_of_others_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    fixtures.rekv(tmp_path / "data")
    outside = fixtures.write_video(tmp_path / "outside.mp4")
    entries = copy.deepcopy(fixtures.REKV)
    entries[0]["video_path"], entries[1]["video_path"] = str(outside), "../outside.mp4"
    fixtures.write_json(tmp_path / "data" / "dev_debug_mc.json", entries)
    for clip in rekv.read(tmp_path / "data", 1.0).clips:
        assert (tmp_path / "data") in clip.footage.path.parents  # type: ignore[attr-defined]
        assert not clip.footage.path.exists()  # type: ignore[attr-defined]
