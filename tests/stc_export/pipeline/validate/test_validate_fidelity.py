"""Task fidelity from end to end, and its figures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.cli.validate import result_text
from stc_export.pipeline.validate.fidelity import fidelity_notes, fidelity_rows, fidelity_score
from stc_export.pipeline.validate.html import html_report
from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.types import Closeness, ValidateRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import UsageError
from stc_export.spec.policy import named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.types import Answered, ClipFidelity, ClipOutcome, StageTimes, Work
from tests.stc_export.cli.results import VALIDATED
from tests.videos import write_moving_square

Validated = tuple[ValidateRequest, ValidateResult]


@pytest.fixture(scope="module")
def validated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """The published policy on one film."""
    folder = tmp_path_factory.mktemp("fidelity")
    request = ValidateRequest(
        tiny_bundle,
        "fidelity",
        folder / "out",
        named_policies()["paper"],
        jobs=1,
        data=write_moving_square(folder / "square.mp4"),
        fps=4.0,
        ask=("What moves?",),
    )
    return request, validate(request, Silent())


def test_validate_fidelity_has_a_section_per_setting(validated: Validated) -> None:
    request, result = validated
    off, base = result.settings
    assert off.fidelity is not None
    assert base.fidelity is not None
    assert off.fidelity.feature_cosine == Closeness(1.0, 1.0, 12, None, None)
    assert off.fidelity.divergence == Closeness(0.0, 0.0, 3, None, None)
    assert off.overall.accuracy.value == off.fidelity.same_answer.mean == 1.0
    assert base.fidelity.feature_cosine.worst < base.fidelity.feature_cosine.mean < 1.0
    assert base.fidelity.same_answer.mean == base.overall.accuracy.value
    assert base.work.frames == 12
    written = (request.report / "summary.json").read_text(encoding="utf-8")
    assert codec.from_json(ValidateResult, written) == result


def test_validate_fidelity_is_in_the_report_and_in_what_is_printed(validated: Validated) -> None:
    _, result = validated
    page, text = html_report(result), result_text(result)
    for shown in (page, text):
        assert "same first token" in shown
        assert "No intervals: 1 clips" in shown
    assert "stands in for accuracy" in page
    assert "stands in for accuracy" in " ".join(text.split())
    assert "<h2>Fidelity</h2>" in page
    assert "<h2>Fidelity</h2>" not in html_report(VALIDATED)
    assert "KL, nats" not in result_text(VALIDATED)


def test_validate_fidelity_continues_after_a_cut_line(validated: Validated, tmp_path: Path) -> None:
    request, result = validated
    out = tmp_path / "out"
    shutil.copytree(request.report, out)
    whole = (out / "results.jsonl").read_bytes()
    (out / "results.jsonl").write_bytes(whole[:-40])
    again = validate(replace(request, report=out), Silent())
    assert [one.fidelity for one in again.settings] == [one.fidelity for one in result.settings]
    kinds = [json.loads(line)["kind"] for line in (out / "results.jsonl").read_text().splitlines()]
    assert kinds == ["question"] * 3 + ["clip"] + ["question"] * 3 + ["clip"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ask": ("Who?",)}, r"asked \('What moves\?',\) there, \('Who\?',\) here"),
        ({"fps": 8.0}, "fps 4.0 there, 8.0 here"),
        ({"data": "other.mp4"}, "annotations .* there, .* here"),
    ],
    ids=["question", "rate", "film"],
)
def test_validate_fidelity_refuses_a_folder_of_something_else(
    validated: Validated, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    request, _ = validated
    if "data" in change:
        change = {"data": write_moving_square(tmp_path / "other.mp4", frames=20)}
    with pytest.raises(UsageError, match=told):
        validate(replace(request, **change), Silent())  # type: ignore[arg-type]


# --- Figures


def a_clip(number: int, cosines: tuple[float, ...], right: tuple[bool, ...]) -> ClipOutcome:
    name = f"{number}.mp4"
    answers = tuple(Answered(name, n, "Who?", "after", "x", "x", one, "x") for n, one in enumerate(right))
    nats = tuple(0.0 if one else 2.0 for one in right)
    found = ClipFidelity(cosines, tuple(1 - one for one in cosines), cosines[:1], (0.5,), right, nats)
    frames = len(cosines)
    work, times = Work(frames, frames, 0, 25, 25, 9, 3), StageTimes(*[(1.0,)] * 8)
    return ClipOutcome(name, answers, work, times, fidelity=found)


def test_score_weighs_frames_and_questions_not_clips() -> None:
    found = fidelity_score([a_clip(0, (1.0, 0.5, 0.75), (True, True)), a_clip(1, (0.25,), (False, True))])
    assert found is not None
    assert found.clips == 2
    assert found.feature_cosine == Closeness(0.625, 0.25, 4, None, None)
    assert found.feature_error == Closeness(0.375, 0.75, 4, None, None)
    assert found.token_cosine == Closeness(0.625, 0.25, 2, None, None)
    assert found.same_answer == found.same_first == Closeness(0.75, 0.0, 4, None, None)
    assert found.divergence == Closeness(0.5, 2.0, 4, None, None)


def test_score_of_ten_clips_has_intervals_around_its_means() -> None:
    clips = [a_clip(n, (1.0 - n / 20,), (n % 2 == 0,)) for n in range(10)]
    nine = fidelity_score(clips[:9])
    assert nine is not None
    assert nine.feature_cosine.low is None
    found = fidelity_score(clips)
    assert found is not None
    for one in (found.feature_cosine, found.same_answer):
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.mean < one.high
    # The standard error of the mean of 1, 0.95, ..., 0.55 is 0.0479; the bootstrap's is sqrt(9/10) of it.
    cosine = found.feature_cosine
    assert cosine.high is not None
    assert cosine.low is not None
    assert cosine.high - cosine.low == pytest.approx(2 * 1.96 * 0.0454, rel=0.05)


def test_score_of_a_task_without_it_is_none() -> None:
    clip = a_clip(0, (1.0,), (True,))
    assert fidelity_score([replace(clip, fidelity=None)]) is None
    assert fidelity_score([clip, replace(clip, fidelity=None)]) is None
    assert fidelity_rows(VALIDATED.settings) == []
    assert fidelity_notes(VALIDATED.settings) == []


def test_rows_and_notes_say_intervals_only_where_there_are_any() -> None:
    def told(count: int) -> tuple[tuple[str, ...], list[str]]:
        score = fidelity_score([a_clip(n, (0.75,), (True,)) for n in range(count)])
        settings = (replace(VALIDATED.settings[0], fidelity=score),)
        return fidelity_rows(settings)[0], fidelity_notes(settings)

    few, notes = told(2)
    assert few[:4] == ("off", "0.7500", "0.7500", "0.2500")
    assert few[6:] == ("100.0 %", "100.0 %", "0.0000", "0.0000")
    assert notes[0].startswith("2 clips, 2 frames, 2 questions. No intervals: 2 clips, ")
    many, notes = told(10)
    assert many[1] == "0.7500 (0.7500 to 0.7500)"
    assert many[6] == "100.0 % (100.0 to 100.0)"
    assert notes[0] == "10 clips, 10 frames, 10 questions."
