"""An uncompressed stream that is watched once and then played again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec.policy import named_policies
from stc_export.validate.fidelity import watch_beside_off, watch_pair
from stc_export.validate.paired import PairedStream
from stc_export.validate.recent import Recent
from stc_export.validate.recorded import RecordedStream
from stc_export.validate.tasks import find_task, read_task
from stc_export.validate.types import ClipOutcome, TaskClip, TaskOptions
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.videos import write_moving_square

PAPER, OFF = named_policies()["paper"], named_policies()["off"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TaskClip:
    film = write_moving_square(tmp_path_factory.mktemp("films") / "square.mp4")
    return read_task(find_task("fidelity"), TaskOptions(data=film, fps=4.0, ask=("What moves?",))).clips[0]


class CountedSession(StreamSession):
    """Counts the frames that it takes."""

    pushed = 0

    def push(self, frame: object, time_s: float) -> object:  # type: ignore[override]
        self.pushed += 1
        return super().push(frame, time_s)  # type: ignore[arg-type]


def test_a_recording_compares_as_the_stream_itself_does(tiny_bundle: Path, clip: TaskClip) -> None:
    model = Model.open(tiny_bundle, OrtBackend(threads=1))
    with StreamSession(model, PAPER) as session:
        expected = watch_beside_off(session, clip, partial(StreamSession, model))
    dense = CountedSession(model, OFF)
    recorded = RecordedStream(dense, 1 << 30)

    def watched() -> ClipOutcome:
        with StreamSession(model, PAPER) as session:
            recorded.begin(clip.name)
            outcome = watch_pair(PairedStream(session, recorded), clip)
            recorded.finish()
            return outcome

    for outcome in (watched(), watched(), watched()):
        assert outcome.fidelity == expected.fidelity
        assert outcome.answers == expected.answers
        assert outcome.work == expected.work
    assert dense.pushed == 12
    recorded.close()


def test_a_clip_that_was_not_watched_to_its_end_is_recorded_anew(tiny_bundle: Path, clip: TaskClip) -> None:
    model = Model.open(tiny_bundle, OrtBackend(threads=1))
    dense = CountedSession(model, OFF)
    recorded = RecordedStream(dense, 1 << 30)
    frames = list(clip.footage.frames())
    for _ in range(2):
        recorded.begin(clip.name)
        recorded.reset()
        for frame, seconds in frames[:3]:
            recorded.push(frame, seconds)
    assert dense.pushed == 6


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=30), st.integers(0, 20))
def test_what_was_used_last_stays_as_far_as_there_is_room(steps: list[tuple[str, int]], room: int) -> None:
    kept: Recent[int] = Recent(room)
    order: list[tuple[str, int]] = []  # the same by hand: the newest last
    for name, size in steps:
        kept.put(name, size, size)
        order = [one for one in order if one[0] != name] + [(name, size)]
        while len(order) > 1 and sum(one[1] for one in order) > room:
            order = order[1:]
        for other in sorted("abcd"):
            assert kept.get(other) == dict(order).get(other)
        order.sort(key=lambda one: one[0])  # asking has used them, in the order of their names
