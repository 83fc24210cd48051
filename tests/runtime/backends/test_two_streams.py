"""The LLM beside the encoder, on two streams whose steps come in any order that the waits allow."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from stc_export.spec.errors import DeviceError, ParityError, SessionStateError
from stc_export.spec.policy import GatePolicy, MemoryPolicy, Policy, PrunerPolicy
from stc_runtime import Bundle, Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.trt import TrtBackend
from stc_runtime.backends.trt_engine import TrtEngine
from tests.runtime.backends.fake_trt import (
    FakeDevice,
    FakeTensorRt,
    Schedule,
    any_shape,
    at_once,
    first,
    late,
    make_backend,
    mixed,
    write_plans,
)
from tests.runtime.scenes import scene

#: So little memory that frames are evicted.
SMALL = MemoryPolicy(kv_tokens=40, answer_tokens=700)
POLICIES = {
    "full": Policy(GatePolicy("off"), memory=SMALL),
    "adaptive": Policy(memory=SMALL),
    "budget": Policy(GatePolicy("paper"), pruner=PrunerPolicy("evs", keep=0.4, budget="vidcom2"), memory=SMALL),
}
#: The LLM as late as possible, as early as possible, and both as late as possible.
SCHEDULES = {"at once": at_once, "encoder first": first(0), "llm first": first(1), "late": late}


@pytest.fixture(scope="module", params=["tiny_bundle", "tiny_modern_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """A bundle of each flavour."""
    return Bundle.open(request.getfixturevalue(request.param))


def on_two_streams(bundle: Bundle, folder: Path, schedule: Schedule) -> tuple[TrtBackend, FakeDevice]:
    device: Any = FakeDevice(schedule=schedule)
    trt = FakeTensorRt(device, any_shape)
    one: Any = make_backend(trt, device, write_plans(bundle.root, bundle.manifest, folder))
    return TrtBackend.on_two_streams(trt, one._log, device, folder), device


def play(backend: Any, bundle: Bundle, policy: Policy, sessions: int = 1) -> list[Any]:
    """Push 10 frames to each session in turn, with questions on the way; return what was done and answered."""
    model, seen = Model(bundle, backend), []
    streams = [StreamSession(model, policy) for _ in range(sessions)]
    for number, frame in enumerate(scene(10)):
        for which, stream in enumerate(streams):
            report = stream.push(frame if which == 0 else 255 - frame, number / 2)
            seen.append((report.mode, report.kept_indices, report.similarity, report.evicted_frames))
        for stream in streams:
            if number in (4, 9):
                seen.append([token for token, *_ in stream._generate((5, 6, 7), 3, None, remember=number == 4)])
                seen.append(stream.first_logits.tobytes())
    for stream in streams:
        stream.close()
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
def test_a_stream_is_the_same_as_with_onnx_runtime(
    bundle: Bundle, tmp_path: Path, policy: Policy, schedule: Schedule
) -> None:
    backend, _ = on_two_streams(bundle, tmp_path, schedule)
    found = play(backend, bundle, policy)
    assert found == play(OrtBackend(threads=1), bundle, policy)
    assert any(evicted for *_, evicted in (row for row in found if isinstance(row, tuple)))


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> list[Any]:
    """What two sessions on one model give in ONNX Runtime."""
    return play(OrtBackend(threads=1), Bundle.open(tiny_bundle), POLICIES["full"], sessions=2)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_sessions_on_one_model_do_not_mix_whatever_the_order(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, expected: list[Any], seed: int
) -> None:
    bundle = Bundle.open(tiny_bundle)
    backend, _ = on_two_streams(bundle, tmp_path_factory.mktemp("plans"), mixed(seed))
    assert play(backend, bundle, POLICIES["full"], sessions=2) == expected


@pytest.mark.parametrize("removed", ["of the call before", "for the outputs"])
def test_without_one_of_the_waits_the_numbers_are_wrong(
    tiny_bundle: Path, tmp_path: Path, expected: list[Any], monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    """So the tests above would find a wait that is missing."""
    bundle = Bundle.open(tiny_bundle)
    backend, device = on_two_streams(bundle, tmp_path, late)
    remove = {
        "of the call before": lambda: monkeypatch.setattr(TrtEngine, "_settle", lambda _self: None),
        "for the outputs": lambda: monkeypatch.setattr(backend.llm._device, "wait", lambda: None),
    }
    remove[removed]()
    assert device.streams.keys() == {77, 78}
    found = None
    with np.errstate(all="ignore"), suppress(ParityError):  # what is read too soon may be any number, or none
        found = play(backend, bundle, POLICIES["full"], sessions=2)
    assert found != expected


def test_outputs_are_those_of_their_call_whenever_they_are_looked_at(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    graph = bundle.manifest.graph("llm")
    backend, device = on_two_streams(bundle, tmp_path, late)
    engine, plain = backend.llm.open(bundle.root, graph), OrtBackend(threads=1).open(bundle.root, graph)
    letters = {"S": 2, "P": 8}
    calls = [
        {spec.name: np.full([letters.get(d, d) for d in spec.shape], number, spec.dtype) for spec in graph.inputs}
        for number in (1, 2, 3)
    ]
    expected = [plain.run(fed, {})["logits"].tobytes() for fed in calls]
    logits = np.zeros((1, bundle.manifest.dims.text.vocab), np.float32)
    found = [engine.run(fed, {}) for fed in calls]
    assert device.streams[78]._steps, "the last, which is a CUDA graph by now, is not done"
    assert [outputs["logits"].tobytes() for outputs in found] == expected
    engine.run(calls[0], {"logits": logits})
    assert logits.tobytes() == expected[0], "an array of the host is filled when the call returns"


def test_push_returns_before_the_frame_is_prefilled(tiny_bundle: Path, tmp_path: Path) -> None:
    """The report is that of this frame; the LLM is at work until it is asked, or gets the next frame."""
    bundle = Bundle.open(tiny_bundle)
    backend, device = on_two_streams(bundle, tmp_path, late)
    llm, most = device.streams[78], []
    with StreamSession(Model(bundle, backend), POLICIES["full"]) as stream:
        for number, frame in enumerate(scene(6)):
            report = stream.push(frame, number)
            assert (report.time_s, stream.remembered_frames) == (number, min(number + 1, stream.remembered_frames))
            assert report.kept_tokens == len(stream.visual_tokens)
            most.append(len(llm._steps))
        list(stream.ask_tokens((5, 6), max_tokens=1))
        assert not llm._steps
    assert min(most) > 0
    assert max(most[3:]) == min(most[3:]), "one frame at most waits"


def test_one_stream_does_all_work_of_a_push(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    device = FakeDevice(schedule=late)
    folder = write_plans(bundle.root, bundle.manifest, tmp_path)
    backend = make_backend(FakeTensorRt(device, any_shape), device, folder)
    found = play(backend, bundle, POLICIES["full"])
    assert found == play(OrtBackend(threads=1), bundle, POLICIES["full"])
    assert device.streams.keys() == {77}


# --- errors that come late -------------------------------------------------------------------------------------------


def lost() -> None:
    raise DeviceError("The NVIDIA driver refuses cuStreamSynchronize (error 700).", "See nvidia-smi.")


ACTIONS = {
    "push": lambda stream: stream.push(scene(1)[0], 9),
    "ask": lambda stream: list(stream.ask_tokens((5, 6), max_tokens=1)),
    "close": lambda stream: stream.close(),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
def test_late_error_names_its_frame_and_the_stream_can_be_started_anew(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Any
) -> None:
    bundle = Bundle.open(tiny_bundle)
    backend, _ = on_two_streams(bundle, tmp_path, late)
    stream = StreamSession(Model(bundle, backend), POLICIES["full"])
    for number, frame in enumerate(scene(3)):
        stream.push(frame, number / 2)
    with monkeypatch.context() as broken:
        broken.setattr(backend.llm._device, "wait", lost)
        with pytest.raises(DeviceError) as caught:
            action(stream)
    assert caught.value.problem == (
        "The NVIDIA driver refuses cuStreamSynchronize (error 700), at the frame of 1 s, which was pushed before."
    )
    assert caught.value.fix == "See nvidia-smi."
    if action is ACTIONS["close"]:
        stream.close()
        return
    with pytest.raises(SessionStateError, match="failed midway"):
        stream.push(scene(1)[0], 9)
    stream.reset()
    assert stream.push(scene(1)[0], 0).mode == "full"
    assert list(stream.ask_tokens((5, 6), max_tokens=2))


def test_number_that_is_not_finite_is_told_one_call_later_and_gone_after_reset(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_bundle)
    backend, _ = on_two_streams(bundle, tmp_path, late)
    frames = scene(3)

    def logits(stream: StreamSession) -> bytes:
        stream.push(frames[0], 0)
        list(stream.ask_tokens((5, 6), max_tokens=1))
        return stream.first_logits.tobytes()

    with StreamSession(Model(bundle, backend), POLICIES["full"]) as stream:
        before = logits(stream)
        values = next(rows for rows in stream._memory._kv._all if rows.port == "value_0")
        values.store.write(0, np.array([np.inf], np.float32))  # of the sink, which every token sees
        stream.push(frames[1], 1.5)
        with pytest.raises(ParityError, match=r"numbers that are not finite: an overflow, at the frame of 1\.5 s"):
            stream.push(frames[2], 2)
        stream.reset()
        assert logits(stream) == before


def test_an_error_in_the_body_is_not_hidden_by_closing(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(tiny_bundle)
    backend, _ = on_two_streams(bundle, tmp_path, late)
    stream = StreamSession(Model(bundle, backend), POLICIES["full"])

    def use() -> None:
        with stream:
            stream.push(scene(1)[0], 0)
            broken.setattr(backend.llm._device, "wait", lost)
            raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        use()
