"""Sessions in threads, and errors at any place of a push: streams stay apart, and no half change goes unnoticed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stc_export.spec.errors import DeviceError, SessionStateError
from stc_runtime import Model, StreamSession
from stc_runtime.backends.store import HostMemory
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import scene

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.spec.manifest import GraphEntry
    from stc_export.spec.report import FrameReport
    from stc_runtime.backends.base import Arrays, Engine

SESSIONS = 8


def numbers(report: FrameReport) -> tuple[object, ...]:
    """Return what a report says but for its times."""
    return (
        report.mode,
        report.recomputed_indices,
        report.similarity,
        report.change,
        report.kept_indices,
        report.evicted_frames,
    )


def watched(session: StreamSession, first: int, frames: int = 6) -> list[object]:
    """Push frames, ask in between and at the end, and return all that came out."""
    seen: list[object] = []
    for second, frame in enumerate(scene(frames, first)):
        seen.append(numbers(session.push(frame, float(second))))
        if second % 3 == 2:
            seen.append([piece.token for piece in session.ask("What moves?", max_tokens=4)])
    return [*seen, session.remembered_tokens]


def test_eight_sessions_in_eight_threads_each_give_what_they_give_alone(tiny_model: Model) -> None:
    alone = [watched(StreamSession(tiny_model), 5 * number) for number in range(SESSIONS)]
    assert alone[0] != alone[1]
    sessions = [StreamSession(tiny_model) for _ in range(SESSIONS)]
    start = threading.Barrier(SESSIONS)

    def together(number: int) -> list[object]:
        start.wait(60)
        return watched(sessions[number], 5 * number)

    with ThreadPoolExecutor(SESSIONS) as pool:
        assert list(pool.map(together, range(SESSIONS))) == alone


class Scripted(HostMemory):
    """A backend of made-up numbers that fails at one run, or waits in it, counted from when it is told so."""

    def __init__(self) -> None:
        self.left = -1
        self.entered, self.leave = threading.Event(), threading.Event()
        self.wait = False

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        return _Scripted(FakeBackend().open(root, graph), self)

    def reached(self) -> None:
        self.left -= 1
        if self.left != 0:
            return
        if not self.wait:
            raise DeviceError("The device is gone.", "Wait.")
        self.entered.set()
        assert self.leave.wait(60)


class _Scripted:
    def __init__(self, engine: Engine, script: Scripted) -> None:
        self._engine, self._script = engine, script

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, Any]:
        self._script.reached()
        return self._engine.run(feeds, into)


@pytest.fixture(scope="module")
def new_session(tiny_bundle: Path) -> list[object]:
    return watched(StreamSession(Model.open(tiny_bundle, Scripted())), 3, 3)


@settings(deadline=None, max_examples=15)
@given(before=st.integers(0, 3), place=st.integers(1, 10), frames=st.integers(1, 3))
def test_error_at_any_run_of_a_push_is_never_forgotten_and_reset_makes_the_session_new(
    tiny_bundle: Path, new_session: list[object], before: int, place: int, frames: int
) -> None:
    script = Scripted()
    session = StreamSession(Model.open(tiny_bundle, script))
    pictures = scene(before + frames)
    for second, frame in enumerate(pictures[:before]):
        session.push(frame, float(second))
    script.left = place
    try:
        for second, frame in enumerate(pictures[before:], start=before):
            session.push(frame, float(second))
        failed = False
    except DeviceError:
        failed = True
    assert failed == (script.left == 0)
    script.left = -1
    if failed:
        with pytest.raises(SessionStateError, match="failed midway"):
            session.push(pictures[0], 99.0)
        with pytest.raises(SessionStateError, match="failed midway"):
            list(session.ask("What moves?"))
    session.reset()
    assert watched(session, 3, 3) == new_session


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_reset_and_close_during_a_push_of_another_thread(tiny_bundle: Path, place: int) -> None:
    """Reset is refused and close is taken; the push ends well, wherever it is, and its session is then closed."""
    script = Scripted()
    session = StreamSession(Model.open(tiny_bundle, script))
    script.left, script.wait = place, True
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(session.push, scene(1)[0], 0.0)
        assert script.entered.wait(60)
        with pytest.raises(SessionStateError, match="in use by another thread"):
            session.reset()
        session.close()
        script.leave.set()
        assert pushed.result(60).mode == "full"
    with pytest.raises(SessionStateError, match="closed"):
        session.push(scene(1)[0], 1.0)
