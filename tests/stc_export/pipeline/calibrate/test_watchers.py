"""The watchers on a tiny model: what they give is what a validation of the same policy gives."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from stc_export.pipeline.calibrate.watchers import open_watcher
from stc_export.spec.errors import VideoError
from stc_export.spec.policy import named_policies
from stc_export.validate.cuts import cut_films
from stc_export.validate.demo import quiz_clip
from stc_export.validate.fidelity import watch_beside_off
from stc_export.validate.footage import VideoFile
from stc_export.validate.tasks import find_task
from stc_export.validate.types import TaskClip, TaskOptions
from stc_export.validate.watch import watch_clip
from stc_export.world.splits import draw_test_set
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.videos import write_moving_square


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return Model.open(tiny_bundle, OrtBackend(threads=1))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[TaskClip, ...]:
    film = write_moving_square(tmp_path_factory.mktemp("films") / "square.mp4")
    return cut_films(TaskOptions(data=film, fps=4.0, ask=("What moves?",)), 6).clips


def test_own_videos_are_compared_with_the_uncompressed_stream(model: Model, clips: tuple[TaskClip, ...]) -> None:
    watcher = open_watcher(model, find_task("fidelity"))
    for name in ("paper", "adaptive", "off"):
        policy = replace(named_policies()[name], memory=model.manifest.policy.memory)
        for clip in clips:
            with StreamSession(model, policy) as session:
                expected = watch_beside_off(session, clip, partial(StreamSession, model))
            found = watcher.watch(policy, clip)
            assert (found.answers, found.work, found.fidelity) == (expected.answers, expected.work, expected.fidelity)


def test_clips_with_right_answers_are_watched_alone(model: Model) -> None:
    clip = quiz_clip(next(draw_test_set()))
    policy = replace(named_policies()["paper"], memory=model.manifest.policy.memory)
    with StreamSession(model, policy) as session:
        expected = watch_clip(session, clip)
    found = open_watcher(model, find_task("demo")).watch(policy, clip)
    assert (found.answers, found.work, found.fidelity) == (expected.answers, expected.work, None)


def test_a_clip_that_cannot_be_read_ends_the_search(model: Model, clips: tuple[TaskClip, ...]) -> None:
    lost = replace(clips[0], name="lost", footage=VideoFile(Path("lost.mp4"), 1.0))
    with pytest.raises(VideoError, match=r"lost\.mp4"):
        open_watcher(model, find_task("fidelity")).watch(named_policies()["paper"], lost)
