"""The backend for tests of applications: what an application sees is like with a real one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stc_export.spec.policy import CacherPolicy, GatePolicy, MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_runtime import Model, StreamSession, TopP
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import scene, watch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(
    scope="module",
    params=["tiny_bundle", "tiny_bundle_fp16", "tiny_bundle_bf16", "tiny_kv_bundle_fp16", "siglip_bundle"],
)
def model(request: pytest.FixtureRequest) -> Model:
    return Model.open(request.getfixturevalue(request.param), FakeBackend())


def answer(session: StreamSession, question: str = "What moves?", **options: object) -> list[int]:
    return [piece.token for piece in session.ask(question, max_tokens=8, **options)]  # type: ignore[arg-type]


def test_still_scene_is_skipped_and_changed_patches_are_recomputed(model: Model) -> None:
    session = StreamSession(model, Policy(gate=GatePolicy(margin=0, warmup=1)))
    (frame,) = scene(1)
    changed = frame.copy()
    changed[40:60, 40:60] = 255 - changed[40:60, 40:60]
    cut = 255 - frame
    reports = [session.push(each, float(i)) for i, each in enumerate((frame, frame, changed, changed, cut))]
    assert [report.mode for report in reports] == ["full", "skip", "selective", "skip", "full"]
    assert 0 < reports[2].recomputed < reports[0].recomputed / 4
    assert reports[1].similarity == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("policy", [*named_policies().values(), Policy(pruner=PrunerPolicy("stc_gaussian"))])
def test_same_stream_gives_the_same_answers_and_another_gives_others(model: Model, policy: Policy) -> None:
    sessions = [StreamSession(model, policy) for _ in range(3)]
    watch(sessions[0], 0, 4)
    watch(sessions[1], 0, 4)
    watch(sessions[2], 3, 4)
    answers = [answer(session) for session in sessions]
    assert answers[0] == answers[1] != answers[2]
    assert answer(sessions[0], "And now?") != answers[0]
    assert answer(sessions[0]) == answers[0]


def test_answer_depends_on_what_is_remembered_and_not_on_what_is_forgotten(model: Model) -> None:
    tokens = 3 + 2 * model.manifest.dims.vision.visual_tokens
    base = named_policies()["off"]
    policy = Policy(base.gate, base.cacher, base.pruner, MemoryPolicy(kv_tokens=tokens, answer_tokens=100))
    long, short = StreamSession(model, policy), StreamSession(model, policy)
    watch(long, 0, 6)
    watch(short, 4, 2)  # the two that are left of the six
    assert long.remembered_tokens == short.remembered_tokens == tokens
    assert long.remembered_frames == 2
    assert answer(long, sampling=TopP(1.0, 1.0, 0)) != []


def test_all_selections_and_updates_run(model: Model) -> None:
    for selection in ("gate", "per_layer", "shared"):
        for update in ("rolling", "reference"):
            base = named_policies()["paper"]
            session = StreamSession(model, Policy(base.gate, CacherPolicy(selection, update, 2, 0.25)))  # type: ignore[arg-type]
            watch(session, 0, 3)
            assert session.remembered_frames == 3


def test_module_imports_with_numpy_only() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['onnxruntime', 'tokenizers', 'torch', 'av']));"
        "import stc_runtime.testing as t; print(t.FakeBackend.__name__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "FakeBackend\n"


def test_numbers_are_finite_over_a_long_stream(tiny_bundle: Path) -> None:
    session = StreamSession.open(tiny_bundle, backend=FakeBackend())
    random = np.random.default_rng(0)
    for second in range(300):
        session.push(random.integers(0, 256, (60, 80, 3), np.uint8), float(second))
    assert all(0 <= token < 512 for token in answer(session) if token >= 0)
