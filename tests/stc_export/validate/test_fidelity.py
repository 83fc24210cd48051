"""A user's own videos: what is asked of them, and how close a stream stays to one without compression."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stc_export.spec.errors import UsageError, VideoError
from stc_export.spec.policy import MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_export.validate.fidelity import QUESTIONS, watch_beside_off
from stc_export.validate.tasks import find_task, read_task
from stc_export.validate.types import ClipOutcome, TaskClip, TaskClips, TaskOptions
from stc_export.validate.watch import watch_clip
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.videos import write_moving_square, write_sound

FIDELITY = find_task("fidelity")
PAPER = named_policies()["paper"]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames at 8 per second."""
    return write_moving_square(tmp_path_factory.mktemp("films") / "square.mp4")


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return Model.open(tiny_bundle, OrtBackend(threads=1))


def read(path: Path, **options: object) -> TaskClips:
    return read_task(FIDELITY, TaskOptions(data=path, **options))  # type: ignore[arg-type]


# --- What is asked


def test_each_question_is_asked_after_each_third_of_the_frames(film: Path) -> None:
    (clip,) = read(film, fps=4.0).clips
    assert clip.name == "square.mp4"
    assert [question.prompt for question in clip.questions] == list(QUESTIONS) * 3
    # 12 frames, one every quarter of a second: after numbers 4, 8 and 12.
    assert [question.at_s for question in clip.questions[::4]] == [0.75, 1.75, 2.75]
    assert [question.group for question in clip.questions[::4]] == ["after 1 of 3", "after 2 of 3", "after 3 of 3"]
    assert {question.right for question in clip.questions} == {None}


def test_questions_of_the_user_replace_the_default_ones(film: Path) -> None:
    found = read(film, ask=("Who?", "Why?"))
    assert [question.prompt for question in found.clips[0].questions] == ["Who?", "Why?"] * 3
    assert found.asked == ("Who?", "Why?")
    assert found.fps == 1.0
    assert read(film).asked == QUESTIONS


def test_a_folder_gives_its_videos_by_name_and_nothing_else(film: Path, tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mp4", "c.mkv", "notes.txt"):
        (tmp_path / name).write_bytes(film.read_bytes())
    (tmp_path / "deep.mp4").mkdir()
    assert [clip.name for clip in read(tmp_path).clips] == ["a.mp4", "b.MP4", "c.mkv"]
    assert [clip.name for clip in read(tmp_path, limit=2).clips] == ["a.mp4", "b.MP4"]


def test_the_digest_is_that_of_names_and_contents(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "square.mp4"
    path.write_bytes(film.read_bytes())
    assert read(path).annotations == read(film).annotations
    write_moving_square(path, frames=25)
    assert read(path).annotations != read(film).annotations


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder without any video") as caught:
        read(tmp_path)
    assert ".mp4" in caught.value.fix


@pytest.mark.parametrize(("name", "content"), [("empty.mp4", b""), ("text.mp4", b"no video"), ("cut.mp4", None)])
def test_a_video_that_cannot_be_read_is_told_before_anything_runs(
    film: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    (tmp_path / name).write_bytes(film.read_bytes()[:200] if content is None else content)
    with pytest.raises(VideoError, match=name):
        read(tmp_path)


def test_missing_file_and_file_without_picture_are_told(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        read(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match="no picture"):
        read(write_sound(tmp_path / "sound.wav"))


def test_a_video_with_fewer_frames_than_moments_is_refused(tmp_path: Path) -> None:
    path = write_moving_square(tmp_path / "short.mp4", frames=8)
    with pytest.raises(VideoError, match="has 1 frames at 1 per second, expected at least 3") as caught:
        read(path)
    assert "--fps" in caught.value.fix
    assert len(read(path, fps=4.0).clips) == 1


@pytest.mark.parametrize("ask", ["", "  ", "\n"])
def test_an_empty_question_is_refused(film: Path, ask: str) -> None:
    with pytest.raises(UsageError, match="--ask is an empty question"):
        read(film, ask=("Who?", ask))


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        ("demo", TaskOptions(data=Path()), "reads no files"),
        ("demo", TaskOptions(fps=1.0), "reads no files"),
        ("demo", TaskOptions(ask=("Who?",)), "has its own questions"),
        ("fidelity", TaskOptions(), "--data is missing"),
    ],
)
def test_options_that_do_not_fit_the_task_are_refused(task: str, options: TaskOptions, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_task(find_task(task), options)


# --- What is compared


def watched(model: Model, policy: Policy, clip: TaskClip) -> ClipOutcome:
    with StreamSession(model, policy) as session:
        return watch_beside_off(session, clip, partial(StreamSession, model))


@pytest.fixture(scope="module")
def clip(film: Path) -> TaskClip:
    return read(film, fps=4.0, ask=("What moves?",)).clips[0]


def test_no_compression_against_itself_is_equal_in_everything(model: Model, clip: TaskClip) -> None:
    outcome = watched(model, named_policies()["off"], clip)
    found = outcome.fidelity
    assert found is not None
    assert (len(found.feature_cosine), len(found.same_first)) == (12, 3)
    assert set(found.feature_cosine) == set(found.token_cosine) == {1.0}
    assert set(found.feature_error) == set(found.token_error) == set(found.divergence) == {0.0}
    assert all(found.same_first)
    assert all(answer.correct for answer in outcome.answers)


def row_cosine(found: np.ndarray, dense: np.ndarray) -> float:
    return float(np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(found, dense, strict=True)]))


def by_hand(model: Model, policy: Policy, clip: TaskClip) -> list[tuple[float, float]]:
    """Cosine of features and of kept tokens of each frame, with two streams one after the other."""
    dense, own = (streamed(model, one, clip) for one in (named_policies()["off"], policy))
    return [
        (row_cosine(features, dense_features), row_cosine(tokens, every[list(kept)]))
        for (_, dense_features, every), (kept, features, tokens) in zip(dense, own, strict=True)
    ]


def streamed(model: Model, policy: Policy, clip: TaskClip) -> list[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Kept indices, features and visual tokens of each frame."""
    with StreamSession(model, policy) as session:
        return [
            (session.push(frame, seconds).kept_indices, session.features, session.visual_tokens)
            for frame, seconds in clip.footage.frames()
        ]


@pytest.mark.parametrize("method", ["stc_dual_anchor", "random"])
def test_compression_is_compared_frame_by_frame(model: Model, clip: TaskClip, method: str) -> None:
    policy = replace(PAPER, pruner=PrunerPolicy(method=method, keep=0.5))
    found = watched(model, policy, clip).fidelity
    assert found is not None
    expected = by_hand(model, policy, clip)
    assert found.feature_cosine == pytest.approx([features for features, _ in expected], abs=2e-6)
    assert found.token_cosine == pytest.approx([tokens for _, tokens in expected], abs=2e-6)
    assert found.feature_cosine[::2] == pytest.approx([1.0] * 6, abs=1e-6)  # full frames
    assert max(found.feature_cosine[1::2]) < 0.99999
    assert max(found.feature_error[::2]) < 1e-4 < min(found.feature_error[1::2])


def test_pruning_alone_leaves_features_and_kept_tokens_as_they_are(model: Model, clip: TaskClip) -> None:
    policy = replace(named_policies()["off"], pruner=PrunerPolicy(method="random", keep=0.3))
    found = watched(model, policy, clip).fidelity
    assert found is not None
    assert set(found.feature_cosine) == {1.0}
    assert min(found.token_cosine) == pytest.approx(1.0, abs=1e-6)
    assert min(found.divergence) > 0.0


def test_skipped_frames_count_with_the_features_of_the_frame_before(model: Model, clip: TaskClip) -> None:
    policy = replace(Policy(), gate=replace(Policy().gate, tau=0.01, cut=1.0, max_interval=6))
    outcome = watched(model, policy, clip)
    found = outcome.fidelity
    assert found is not None
    encoded = outcome.work.full + outcome.work.selective
    assert 2 <= encoded < outcome.work.frames == 12
    assert len(found.feature_cosine) == 12
    assert len(found.token_cosine) == encoded


def test_answers_of_the_uncompressed_stream_are_the_right_ones(model: Model, clip: TaskClip) -> None:
    outcome = watched(model, PAPER, clip)
    with StreamSession(model, named_policies()["off"]) as dense, StreamSession(model, PAPER) as session:
        plain, own = watch_clip(dense, clip), watch_clip(session, clip)
    assert [answer.right for answer in outcome.answers] == [answer.text for answer in plain.answers]
    assert [answer.text for answer in outcome.answers] == [answer.text for answer in own.answers]
    assert (outcome.work, len(outcome.times.frame)) == (own.work, 12)
    for answer in outcome.answers:
        assert answer.correct == (answer.text.split() == answer.right.split())


def test_both_streams_have_the_memory_of_the_policy(model: Model, clip: TaskClip) -> None:
    """A memory that forgets shows as forgetting in neither: only the compression is compared."""
    memory = MemoryPolicy(kv_tokens=47, answer_tokens=52)
    found = watched(model, replace(named_policies()["off"], memory=memory), clip).fidelity
    assert found is not None
    assert set(found.divergence) == {0.0}


def test_a_second_clip_starts_anew(model: Model, clip: TaskClip) -> None:
    with StreamSession(model, PAPER) as session:
        first = watch_beside_off(session, clip, partial(StreamSession, model))
        again = watch_beside_off(session, clip, partial(StreamSession, model))
    assert again.fidelity == first.fidelity
    assert again.answers == first.answers
