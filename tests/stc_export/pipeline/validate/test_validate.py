"""The command from end to end on a tiny bundle, its report, and going on after an end at any place."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stc_export.pipeline.validate.plots import draw_plots
from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.summary import score, verdict
from stc_export.pipeline.validate.types import SettingScore, ValidateLatencies, ValidateRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import UsageError
from stc_export.spec.policy import Policy, PrunerPolicy, named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.demo import run_quizzes
from stc_export.validate.types import Answered, ClipOutcome, Interval, Setting, StageTimes, Work
from stc_export.world.splits import draw_test_set
from tests.stc_export.cli.results import VALIDATED

PAPER = named_policies()["paper"]
RESULTS = Path(__file__).parents[4] / "benchmarks" / "results" / "demo-model.json"
HALF = replace(PAPER, pruner=PrunerPolicy(method="random", keep=0.5))
Validated = tuple[Path, ValidateResult]


def a_request(bundle: Path, report: Path) -> ValidateRequest:
    sweep = ("pruner.method=random", "pruner.keep=0.5")
    return ValidateRequest(bundle, "demo", report, PAPER, sweep, limit=2, jobs=2)


@pytest.fixture(scope="module")
def validated(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    """Two settings on two clips."""
    out = tmp_path_factory.mktemp("validate") / "out"
    return out, validate(a_request(tiny_bundle, out), Silent())


def without_times(scores: tuple[SettingScore, ...]) -> list[SettingScore]:
    fixed = VALIDATED.settings[0]
    return [
        replace(
            one,
            frame_mean_ms=0.0,
            latency_ms=fixed.latency_ms,
            frames_per_second=0.0,
            peak_rss_bytes=None,
        )
        for one in scores
    ]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_validate_answers_and_counts_as_run_quizzes_does(validated: Validated, tiny_bundle: Path) -> None:
    folder, result = validated
    quizzes = list(islice(draw_test_set(), 2))
    policies = {"off": named_policies()["off"], "pruner.method=random, pruner.keep=0.5": HALF}
    assert {one.name: one.policy for one in result.settings} == policies
    for one in result.settings:
        expected = run_quizzes(tiny_bundle, policies[one.name], quizzes, Silent())
        own = [row for row in rows(folder) if row["setting"] == one.name and row["kind"] == "question"]
        found = {(row["clip"], row["number"]): (row["right"], row["given"], row["text"]) for row in own}
        assert found == {(a.clip, a.number): (a.right, a.given, a.text) for a in expected.answers}
        assert one.work == expected.work
        assert one.overall.accuracy.n == len(expected.answers) == result.questions


def test_validate_has_a_sample_of_each_frame_and_question(validated: Validated) -> None:
    for one in validated[1].settings:
        times, work = one.latency_ms, one.work
        assert times.frame.n == times.gate.n == work.frames
        assert (times.vit_full.n, times.vit_selective.n) == (work.full, work.selective)
        assert times.first_token.n == validated[1].questions
    off, half = validated[1].settings
    assert (off.computed, off.kept) == (1.0, 1.0)
    assert half.kept == pytest.approx(4 / 9)


def test_validate_writes_summary_and_report(validated: Validated) -> None:
    folder, result = validated
    assert codec.from_json(ValidateResult, (folder / "summary.json").read_text(encoding="utf-8")) == result
    plots = {plot.name: plot.png for plot in draw_plots(result)}
    assert set(plots) == {"accuracy-latency.png", "accuracy-computed.png", "accuracy-kept.png"}
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == plots
    others = {path.name for path in folder.iterdir()} - set(plots)
    assert others == {"plan.json", "report.html", "results.jsonl", "summary.json"}


def test_validate_tells_memory_speed_and_why_there_is_no_energy(
    validated: Validated, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder, result = validated
    for one in result.settings:
        clips = [row for row in rows(folder) if row["setting"] == one.name and row["kind"] == "clip"]
        frames = [ms for row in clips for ms in row["times"]["frame"]]
        assert one.frames_per_second == pytest.approx(1000 * len(frames) / sum(frames), rel=1e-3)
        assert one.peak_rss_bytes == max(row["peak_rss_bytes"] for row in clips)
        assert 2**25 < one.peak_rss_bytes < 2**31  # numpy, ONNX Runtime and a tiny model
    out = shutil.copytree(folder, tmp_path / "out")
    again = validate(a_request(tiny_bundle, out), Silent())
    assert (again.energy.status, again.energy.joules, again.energy.clips) == ("not_run", None, 0)
    assert again.settings == result.settings


def test_validate_continues_after_a_cut_line_with_the_same_summary(
    validated: Validated, tiny_bundle: Path, tmp_path: Path
) -> None:
    folder, result = validated
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    whole = (folder / "results.jsonl").read_bytes()
    (out / "results.jsonl").write_bytes(whole[:-40])
    again = validate(a_request(tiny_bundle, out), Silent())
    assert without_times(again.settings) == without_times(result.settings)
    assert [row["kind"] for row in rows(out)].count("clip") == 4
    assert len(rows(out)) == len(rows(folder))
    assert validate(a_request(tiny_bundle, out), Silent()).settings == again.settings  # nothing is left to do


def test_validate_gives_the_answers_of_the_model_card(demo_bundle: Path, tmp_path: Path) -> None:
    """The results on file were made without this command."""
    answers = json.loads(RESULTS.read_text(encoding="utf-8"))["answers"]
    result = validate(ValidateRequest(demo_bundle, "demo", tmp_path, PAPER, limit=2, jobs=2), Silent())
    given = {(row["setting"], row["clip"], row["number"]): row["given"] for row in rows(tmp_path) if "given" in row}
    for name, published in (("off", "off"), ("base", "paper")):
        found = [given[name, f"test/{clip}", number] for clip in range(2) for number in range(8)]
        assert "".join(map(str, found)) == answers[published][: result.questions]
    assert result.questions == 16


class Interrupting(Silent):
    """Presses Ctrl-C when the first clip is complete."""

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[int], None]]:
        def advance(_amount: int) -> None:
            if name == "clips":
                raise KeyboardInterrupt

        yield advance


def test_validate_interrupted_keeps_what_is_done_and_leaves_no_process(
    validated: Validated, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        validate(a_request(tiny_bundle, out), Interrupting())
    assert [row["kind"] for row in rows(out)].count("clip") == 1
    assert multiprocessing.active_children() == []
    assert not (out / "summary.json").exists()
    again = validate(a_request(tiny_bundle, out), Silent())
    assert without_times(again.settings) == without_times(validated[1].settings)


def test_validate_refuses_a_folder_of_another_sweep(validated: Validated, tiny_bundle: Path) -> None:
    request = replace(a_request(tiny_bundle, validated[0]), sweep=("pruner.keep=0.5",))
    with pytest.raises(UsageError, match=r"settings off \| .* there, off \| pruner\.keep=0\.5 here"):
        validate(request, Silent())


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"right": "A"', '"right": "D"', 1),
        lambda text: text.replace("test/1", "test/9"),
        lambda text: text.replace("keep=0.5", "keep=0.6"),
        lambda text: text + text,
        lambda text: text[text.index("\n") + 1 :],
    ],
    ids=["another right letter", "unknown clip", "unknown setting", "twice", "a question less"],
)
def test_validate_refuses_rows_that_are_not_of_its_questions(
    validated: Validated, tiny_bundle: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(validated[0], out)
    path = out / "results.jsonl"
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(UsageError, match="that do not belong there"):
        validate(a_request(tiny_bundle, out), Silent())
    assert path.read_text() == changed


def a_clip(number: int, pattern: str) -> ClipOutcome:
    answers = tuple(
        Answered(f"test/{number}", place, "kind", group, "A", given, given == "A")
        for place, (group, given) in enumerate(zip(("realtime", "detail"), pattern, strict=True))
    )
    return ClipOutcome(f"test/{number}", answers, Work(2, 1, 1, 50, 30, 18, 6), StageTimes(*[(1.0, 3.0)] * 8))


def test_score_counts_groups_shares_and_differences() -> None:
    baseline = [a_clip(n, "AA") for n in range(20)]
    found = score(Setting("x", Policy()), [a_clip(n, "AB") for n in range(20)], baseline)
    assert (found.overall.accuracy.value, found.overall.accuracy.n) == (0.5, 40)
    assert [(g.name, g.accuracy.value, g.accuracy.n) for g in found.groups] == [("detail", 0, 20), ("realtime", 1, 20)]
    against = [group.against_off for group in found.groups]
    assert [one and one.verdict for one in against] == ["worse", "no significant difference at n = 20"]
    assert against[0] is not None
    assert against[0].mcnemar_p == pytest.approx(2 / 2**20)  # all twenty pairs differ one way
    assert (found.computed, found.kept) == (0.6, pytest.approx(1 / 3))
    assert found.frame_mean_ms == 2.0
    assert (found.latency_ms.frame.p50, found.latency_ms.frame.n) == (2.0, 40)
    assert score(Setting("off", Policy()), baseline, None).overall.against_off is None


@pytest.mark.parametrize(
    ("low", "value", "high", "clips", "expected"),
    [
        (-0.1, -0.05, 0.0, 50, "no significant difference at n = 200"),
        (-0.1, -0.05, -0.01, 50, "worse"),
        (0.01, 0.05, 0.1, 50, "better"),
        (-0.5, -0.5, -0.5, 1, "too few clips to tell (1)"),
    ],
)
def test_verdict_says_no_more_than_the_interval(
    low: float, value: float, high: float, clips: int, expected: str
) -> None:
    assert verdict(Interval(value, low, high, 200), clips) == expected


def test_latencies_are_those_that_clips_keep() -> None:
    assert list(ValidateLatencies.__dataclass_fields__) == list(StageTimes.__dataclass_fields__)
