"""One opened model, many sessions: nothing of one is in another, and what is opened is opened once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stc_export.spec.errors import BundleError
from stc_export.spec.policy import MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.store import HostMemory
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stc_export.spec.manifest import GraphEntry
    from stc_runtime.backends.base import Engine
    from tests.runtime.conftest import Pair

POLICIES = [
    Policy(),
    named_policies()["paper"],
    named_policies()["off"],
    Policy(pruner=PrunerPolicy("stc_gaussian"), memory=MemoryPolicy(kv_tokens=15, answer_tokens=80)),
]


def stream(model: Model, number: int) -> Iterator[object]:
    """A stream of its own kind, one step at a time; yields everything that can be seen of it."""
    session = StreamSession(model, POLICIES[number % 4])
    for second, frame in enumerate(scene(12, first=5 * number)):
        report = session.push(frame, float(second))
        yield report.mode, report.recomputed, report.similarity, report.change, report.evicted_frames
        if second % 4 == number % 4:
            for piece in session.ask("What moves?", max_tokens=5, remember=number % 4 < 3 and second > 8):
                yield piece.token, piece.text
    yield session._memory._kv.past(1)[0].tobytes()


def test_sessions_that_take_turns_give_what_each_gives_alone(tiny_model: Model) -> None:
    alone = [list(stream(tiny_model, number)) for number in range(6)]
    together: list[list[object]] = [[] for _ in range(6)]
    # One step of each in turn, also in the middle of an answer.
    for steps in zip(*(stream(tiny_model, number) for number in range(6)), strict=False):
        for seen, step in zip(together, steps, strict=True):
            seen.append(step)
    shortest = min(map(len, alone))
    assert together == [seen[:shortest] for seen in alone]
    assert shortest > 20


def test_sessions_in_threads_give_what_each_gives_alone(tiny_bundle: Path) -> None:
    model = Model.open(tiny_bundle, OrtBackend(threads=1))
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda number: list(stream(model, number)), range(6)))
    assert together == [list(stream(model, number)) for number in range(6)]


class Counting(HostMemory):
    """A backend that notes what it opens, and takes its time."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        self.opened.append(graph.file)
        threading.Event().wait(0.01)
        return FakeBackend().open(root, graph)


def test_each_graph_is_opened_once_and_only_if_needed(tiny_bundle: Path) -> None:
    backend = Counting()
    model = Model.open(tiny_bundle, backend)
    assert backend.opened == []
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda _: StreamSession(model), range(4)))
    expected = ["graphs/cacher_gate.onnx", "graphs/llm.onnx", "graphs/pruner.stc_dual_anchor.onnx"]
    assert sorted(backend.opened) == [*expected, "graphs/vit.gate.onnx"]
    StreamSession(model, named_policies()["paper"])
    assert backend.opened[4:] == ["graphs/vit.per_layer.onnx"]
    assert all(session.manifest is model.manifest for session in sessions)


def test_tables_are_the_checkpoints(tiny_pair: Pair) -> None:
    model = Model.open(tiny_pair.bundle, FakeBackend())
    inner = tiny_pair.reference.model.model
    table = inner.language_model.embed_tokens.weight.detach().numpy()
    np.testing.assert_array_equal(model.embed(tuple(range(512))), table)
    np.testing.assert_array_equal(model.embed((511, 0, 0)), table[[511, 0, 0]])
    assert model.embed(()).shape == (0, 48)
    np.testing.assert_array_equal(model.newline, inner.image_newline.detach().numpy()[None])
    assert model.path == tiny_pair.bundle


@pytest.mark.parametrize(
    ("bundle", "dtype"),
    [("tiny_bundle", np.float32), ("tiny_bundle_fp16", np.float16), ("runnable_bundle_bf16", np.uint16)],
)
def test_dtype_is_that_of_the_bundle_for_activations_and_state(
    bundle: str, dtype: type, request: pytest.FixtureRequest
) -> None:
    model = Model.open(request.getfixturevalue(bundle), OrtBackend(threads=1))
    assert model.dtype == dtype
    session = StreamSession(model)
    for second, frame in enumerate(scene(4)):
        session.push(frame, float(second))
    assert len(list(session.ask("What moves?", max_tokens=4))) >= 1
    assert session._memory._kv.past(0)[0].dtype == dtype
    assert model.newline.dtype == dtype


def test_open_with_a_string_path_and_no_backend_runs_on_onnx_runtime(tiny_bundle: Path) -> None:
    with StreamSession.open(str(tiny_bundle)) as session:
        assert session.push(scene(1)[0], 0.0).mode == "full"


def test_open_what_is_no_bundle_raises(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Model.open(tmp_path / "nothing.stc")
    assert caught.value.problem == f'There is no bundle "{tmp_path / "nothing.stc"}".'
    assert caught.value.fix == "Build one with stc-export build, or give the directory that it wrote."
