"""A search from the command's request to its files, with clips that are watched by rules in place of a model."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stc_export.pipeline.calibrate.run import tune
from stc_export.pipeline.calibrate.types import TuneRequest
from stc_export.pipeline.inspect import inspect
from stc_export.spec.errors import PolicyError, ResourceError, UsageError, VideoError
from stc_export.spec.manifest import MANIFEST_NAME
from stc_export.spec.policy import Policy
from stc_export.spec.progress import Silent
from stc_export.spec.tuning import POLICY_NAME, RECORD_NAME, TuningRecord, read_tuning, tuned_policy
from stc_export.validate.types import ClipOutcome, TaskClip
from tests.stc_export.pipeline.calibrate.stand_in import StandIn, is_faithful, make_outcome
from tests.videos import write_moving_square

#: 12 questions about each clip of 24 frames; at 8 frames per second 3 s of video.
CLIPS = 18
ASK = ("Who?", "Where?", "What?", "When?")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of nine clips each."""
    folder = tmp_path_factory.mktemp("films")
    write_moving_square(folder / "a.mp4", frames=9 * 24)
    shutil.copy(folder / "a.mp4", folder / "b.mp4")
    return folder


@dataclass(frozen=True)
class Tuned:
    """A bundle whose policy was tuned."""

    bundle: Path
    record: TuningRecord
    watched: tuple[tuple[Policy, str], ...]


def request(bundle: Path, films: Path, budget: str = "accuracy=0.99", **more: object) -> TuneRequest:
    return TuneRequest(bundle, budget, films, fps=8.0, ask=ASK, threads=1, **more)  # type: ignore[arg-type]


def run(asked: TuneRequest, stand_in: StandIn | None = None, **more: Callable[[], float]) -> TuningRecord:
    return replace(tune(asked, Silent(), (stand_in or StandIn()).open, **more).record, command="")


@pytest.fixture(scope="module")
def tuned(tiny_bundle: Path, films: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """A tuned bundle that no test changes."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("tuned") / "tiny.stc"))
    stand_in = StandIn()
    return Tuned(bundle, run(request(bundle, films), stand_in), tuple(stand_in.watched))


@pytest.fixture
def copied(tuned: Tuned, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(tuned.bundle, tmp_path / "tiny.stc"))


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that was never tuned."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.stc"))


def test_the_cheapest_faithful_policy_is_found_and_written(tuned: Tuned) -> None:
    record = tuned.record
    assert record.met
    assert is_faithful(record.policy)
    # Of all that the stand-in answers faithfully, nothing costs less: half the tokens, and few frames whole.
    assert (record.policy.gate.mode, record.policy.pruner.keep) == ("paper", 0.5)
    faithful = [row for row in record.tried if row.kept == row.questions]
    assert record.chosen in [row.name for row in faithful if row.cost == min(other.cost for other in faithful)]
    assert tuned_policy(tuned.bundle) == record.policy
    written = read_tuning(tuned.bundle)
    assert written is not None
    assert replace(written, command="") == record


def test_video_on_which_every_compression_loses_gets_none(bundle: Path, films: Path) -> None:
    """The uncompressed model is a candidate itself; what is judged is its row, not that of the published policy."""

    def only_off(policy: Policy) -> bool:
        return policy.gate.mode == "off" and policy.pruner.method == "none"

    record = run(request(bundle, films), StandIn(faithful=only_off))
    assert (record.chosen, record.met) == ("off", True)
    assert record.verdict == "accuracy=0.99 is met, in the search and on the clips that were held out"
    assert [(row.name, row.kept.value) for row in record.held_out] == [("off", 1.0), ("paper", pytest.approx(11 / 12))]
    assert tuned_policy(bundle) == record.policy


class Fickle(StandIn):
    """Every compression loses an answer in the second half of a video, and none before."""

    def watch(self, policy: Policy, clip: TaskClip) -> ClipOutcome:
        self.watched.append((policy, clip.name))
        late = float(clip.name.split(" from ")[1].removesuffix(" s")) >= 15
        return make_outcome(policy, clip, faithful=policy.gate.mode == "off" or not late)


def test_what_fails_on_the_clips_held_out_is_not_written_and_a_margin_is_named(bundle: Path, films: Path) -> None:
    record = run(request(bundle, films), Fickle())
    assert not record.met
    assert record.verdict == (
        "accuracy=0.99 was met in the search, but not on the clips that were held out; --budget accuracy=0.995 leaves "
        "a margin, and no clip is watched twice for it"
    )
    assert not (bundle / POLICY_NAME).exists()


def test_the_record_says_what_was_looked_at(tuned: Tuned) -> None:
    data, rows = tuned.record.data, tuned.record.held_out
    assert (data.clips, data.questions, data.held_out_clips, data.held_out_questions) == (9, 108, 9, 108)
    assert [row.name for row in rows] == ["off", "paper", tuned.record.chosen]
    assert [row.kept.value for row in rows] == [1.0, pytest.approx(11 / 12), 1.0]
    assert rows[0].cost == 1.0


def test_clips_that_are_held_out_are_seen_by_no_other_candidate(tuned: Tuned) -> None:
    seen: dict[str, set[Policy]] = {}
    for policy, clip in tuned.watched:
        seen.setdefault(clip, set()).add(policy)
    starts = {clip: float(clip.split(" from ")[1].removesuffix(" s")) for clip in seen}
    late = [clip for clip, start in starts.items() if start >= 15]  # the last four or five of nine clips of 3 s
    assert len(late) >= 8
    assert all(len(seen[clip]) == 3 for clip in late)
    assert all(tuned.record.policy in seen[clip] for clip in late)


def test_the_same_command_does_nothing_twice(tuned: Tuned, copied: Path, films: Path) -> None:
    again = StandIn()
    assert run(request(copied, films), again) == tuned.record
    assert again.watched == []


def test_an_interrupted_search_goes_on(tuned: Tuned, bundle: Path, films: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(request(bundle, films), StandIn(interrupt_at=40))
    assert not (bundle / POLICY_NAME).exists()
    rest = StandIn()
    assert run(request(bundle, films), rest) == tuned.record
    assert tuned.watched[40:] == tuple(rest.watched)


def test_another_budget_uses_what_was_watched(copied: Path, films: Path) -> None:
    more = StandIn()
    record = run(request(copied, films, "accuracy=0.85"), more)
    assert record.met
    assert not is_faithful(record.policy)
    assert len(more.watched) < 2 * CLIPS  # one candidate on the other clips of the search, and on those held out


def test_other_questions_are_refused_with_the_difference(copied: Path, films: Path) -> None:
    with pytest.raises(UsageError, match=r"holds other results: asked .*'Why\?'") as caught:
        run(replace(request(copied, films), ask=(*ASK, "Why?")))
    assert "--out" in caught.value.fix
    with pytest.raises(UsageError, match="tuning TuningPlan"):
        run(replace(request(copied, films), threads=2))


def test_a_time_that_nothing_meets_is_told_and_nothing_is_written(bundle: Path, films: Path) -> None:
    record = run(request(bundle, films, "latency_ms=0.5"))
    assert not record.met
    assert "met by nothing" in record.verdict
    assert record.held_out[-1].frame_ms == min(row.frame_ms for row in record.tried)
    assert not (bundle / POLICY_NAME).exists()
    assert not (bundle / RECORD_NAME).exists()


def test_a_time_chooses_the_most_faithful_that_is_fast_enough(copied: Path, films: Path) -> None:
    # 24 full frames take 24 + kept, fewer take 6 + kept: 16 lets fixed gates with all 9 tokens pass.
    record = run(request(copied, films, "latency_ms=16"))
    assert record.met
    assert is_faithful(record.policy)
    assert record.held_out[-1].frame_ms <= 16


def test_time_that_is_up_keeps_what_was_watched(bundle: Path, films: Path) -> None:
    ticks = itertools.count(0.0, 6.0)  # six seconds pass whenever the time is read
    first = StandIn()
    with pytest.raises(ResourceError, match="1 minutes were up") as caught:
        run(request(bundle, films, minutes=1.0), first, clock=lambda: next(ticks))
    assert "continues" in caught.value.fix
    assert 0 < len(first.watched) < 12
    rest = StandIn()
    assert run(request(bundle, films), rest).met
    assert not {(policy, clip) for policy, clip in rest.watched} & set(first.watched)


def test_a_search_that_is_cut_short_still_chooses(bundle: Path, films: Path) -> None:
    ticks = itertools.count(0.0, 1.0)
    stand_in = StandIn()
    record = run(request(bundle, films, minutes=1.5), stand_in, clock=lambda: next(ticks))
    assert record.met
    assert len(record.tried) < 40
    assert len(stand_in.watched) <= 90


def test_too_little_data_says_how_much_is_needed(bundle: Path, tmp_path: Path) -> None:
    film = write_moving_square(tmp_path / "short.mp4", frames=48)
    with pytest.raises(UsageError) as caught:
        run(request(bundle, film))
    assert caught.value.problem == (
        "The data has 12 questions about 1 clips for the search and 12 about 1 for the final figure, but accuracy=0.99 "
        "needs 100 in each: 18 clips of 24 frames, 0.9 minutes of video at --fps 8."
    )


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"data": None}, UsageError, "--data is missing"),
        ({"data": Path("missing.mp4")}, VideoError, "missing.mp4"),
        ({"budget": "speed=9"}, UsageError, 'names "speed"'),
        ({"task": "demo"}, UsageError, "reads no files"),
        ({"out": Path("policy.txt")}, UsageError, "ends in .json"),
        ({"ask": ("",)}, UsageError, "empty question"),
    ],
)
def test_requests_that_cannot_be_done_are_refused(
    bundle: Path, films: Path, change: dict[str, object], error: type[Exception], told: str
) -> None:
    stand_in = StandIn()
    with pytest.raises(error, match=told):
        run(replace(request(bundle, films), **change), stand_in)
    assert stand_in.watched == []
    assert not (bundle / "calib").exists()


def test_a_bundle_that_cannot_be_written_names_another_place(bundle: Path, films: Path, tmp_path: Path) -> None:
    (bundle / "calib").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        run(request(bundle, films))
    assert "--out tuned.json" in caught.value.fix
    out = tmp_path / "tuned.json"
    assert run(replace(request(bundle, films), out=out)).met
    written = {"tuned.json", "tuned.tuning.json", "tuned.tuning.png", "tuned.tuning"}
    assert written < {path.name for path in tmp_path.iterdir()}


def test_inspect_names_the_policy_and_lists_nothing_as_foreign(tuned: Tuned) -> None:
    found = inspect(tuned.bundle)
    assert found.ok
    assert found.unlisted == ()
    assert found.tuned is not None
    assert (found.tuned.budget, found.tuned.name, found.tuned.usable) == ("accuracy=0.99", tuned.record.chosen, True)


def test_a_policy_of_another_build_is_refused(copied: Path) -> None:
    manifest = copied / MANIFEST_NAME
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(PolicyError, match="belongs to another build") as caught:
        tuned_policy(copied)
    assert "calibrate" in caught.value.fix


def test_a_policy_that_was_changed_is_refused(copied: Path) -> None:
    path = copied / POLICY_NAME
    policy = json.loads(path.read_text())
    policy["pruner"]["keep"] = 0.25
    path.write_text(json.dumps(policy))
    with pytest.raises(PolicyError, match="was changed"):
        tuned_policy(copied)
    found = inspect(copied).tuned
    assert found is not None
    assert not found.usable


def test_rows_of_others_are_refused(copied: Path, films: Path) -> None:
    rows = copied / "calib/tuning/results.jsonl"
    rows.write_text(rows.read_text().replace('"correct": true', '"correct": false', 1))
    with pytest.raises(UsageError, match="do not belong there"):
        run(request(copied, films))
