"""Bytes that are computed beforehand against those that sessions hold, and against what the process grows by."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.spec.errors import PolicyError, ResourceError
from stc_export.spec.interface import kv_format
from stc_export.spec.memory import kv_budget
from stc_export.spec.policy import CacherPolicy, MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_runtime import Model, StreamSession
from stc_runtime.dtypes import declared
from stc_runtime.footprint import feature_cache_bytes, kv_bytes
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import scene

#: Pushes 2,300 frames in all modes with a question now and then, and prints by how much memory grew in the last 2,000.
STREAM = """
import gc, sys
import psutil
from stc_export.spec.policy import GatePolicy, MemoryPolicy, Policy
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.runtime.scenes import scene

def resident():
    gc.collect()
    info = psutil.Process().memory_full_info()
    return getattr(info, "uss", info.rss)

model = Model.open(sys.argv[1], OrtBackend(threads=1))
# A small context: the memory is full and positions are renumbered long before the warm-up ends.
session = StreamSession(model, Policy(GatePolicy(cut=0.5), memory=MemoryPolicy(kv_tokens=100, answer_tokens=850)))
use, frames, modes = session.memory_use, scene(96), set()
for number in range(2300):
    if number == 300:
        before = resident()
    modes.add(session.push(frames[number % 96 if number % 3 else (number - 1) % 96], number / 10).mode)
    if number % 50 == 49:
        list(session.ask("What moves?", max_tokens=4, remember=number % 100 == 99))
assert session.memory_use == use
assert modes == {"full", "selective", "skip"}, modes
print(resident() - before)
"""
#: Opens one bundle, warms it up with one session, starts more and prints by how much memory grew, and their own bytes.
SESSIONS = """
import gc, sys
import psutil
from stc_export.spec.policy import MemoryPolicy, Policy
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.runtime.scenes import scene

def resident():
    gc.collect()
    info = psutil.Process().memory_full_info()
    return getattr(info, "uss", info.rss)

def use(session):
    for number in range(3):
        # Frames of the model's own size: others are resized in buffers that depend on them.
        session.push(scene(3)[number][:70, :70].copy(), float(number))
    list(session.ask("What moves?", max_tokens=2))
    return session

model = Model.open(sys.argv[1], OrtBackend(threads=1))
policy = Policy(memory=MemoryPolicy(kv_tokens=900, answer_tokens=100))
first = use(StreamSession(model, policy))
before = resident()
others = [use(StreamSession(model, policy)) for _ in range(40)]
print(resident() - before, sum(sum(vars(session.memory_use).values()) for session in others))
"""
#: Python's own objects and the allocator's rounding. 2,000 frames that kept only their tokens would be 0.8 MB each way.
ALLOWED_BYTES = 1_500_000


@pytest.mark.parametrize("update", ["rolling", "reference"])
@pytest.mark.parametrize("selection", ["gate", "per_layer", "shared"])
@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_bundle_fp16", "tiny_bundle_bf16"])
def test_feature_cache_bytes_are_what_the_session_holds(
    bundle: str, selection: str, update: str, request: pytest.FixtureRequest
) -> None:
    model = Model.open(request.getfixturevalue(bundle), FakeBackend())
    policy = Policy(cacher=CacherPolicy(selection, update))  # type: ignore[arg-type]
    computed = feature_cache_bytes(model.manifest.dims, selection, update, declared(model.dtype), in_place=True)  # type: ignore[arg-type]
    assert StreamSession(model, policy).memory_use.feature_cache == computed


@pytest.mark.parametrize("memory", [MemoryPolicy(), MemoryPolicy(kv_tokens=61, answer_tokens=52)])
@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_bundle_fp16", "tiny_bundle_bf16", "tiny_kv_bundle_fp16"])
def test_kv_bytes_are_what_the_session_holds_beside_mask_and_prompt_keys(
    bundle: str, memory: MemoryPolicy, request: pytest.FixtureRequest
) -> None:
    model = Model.open(request.getfixturevalue(bundle), FakeBackend())
    text = model.manifest.dims.text
    capacity = kv_budget(memory, text.context) + memory.answer_tokens
    mask = capacity * model.dtype.itemsize
    prompt_keys = 4 * text.layers * text.kv_heads * text.head_dim * len(model.manifest.prompt.before_video)
    kv = kv_format(model.manifest.graph("llm"))
    computed = kv_bytes(model.manifest.dims, capacity, declared(model.dtype), kv)
    assert StreamSession(model, Policy(memory=memory)).memory_use.kv == computed + mask + prompt_keys


@pytest.mark.parametrize("policy", list(named_policies().values()), ids=list(named_policies()))
def test_memory_use_is_the_same_all_along(tiny_bundle: Path, policy: Policy) -> None:
    small = replace(policy, memory=MemoryPolicy(kv_tokens=60, answer_tokens=100))
    session = StreamSession.open(tiny_bundle, small, FakeBackend())
    use = session.memory_use
    for second, frame in enumerate(scene(40)):
        session.push(frame, float(second))
        if second % 10 == 9:
            list(session.ask("What?", max_tokens=4, remember=True))
    assert session.memory_use == use
    session.reset()
    assert session.memory_use == use


def test_long_stream_grows_by_nothing(tiny_bundle: Path) -> None:
    assert int(printed(STREAM, tiny_bundle)) < ALLOWED_BYTES


def test_more_sessions_on_one_model_cost_their_state_and_nothing_else(tiny_bundle: Path) -> None:
    """40 x 0.55 MB; the engines that they share are 3 MB, once."""
    grown, reserved = map(int, printed(SESSIONS, tiny_bundle).split())
    manifest = Model.open(tiny_bundle, FakeBackend()).manifest
    cache = feature_cache_bytes(manifest.dims, "gate", "rolling", "float32", in_place=True)
    assert 40 * (cache + kv_bytes(manifest.dims, 1000, "float32", "floats")) == pytest.approx(reserved, rel=0.03)
    assert grown == pytest.approx(reserved, rel=0.1)


def printed(code: str, bundle: Path) -> str:
    """Return what a program prints, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("memory", "context", "tokens"),
    [
        (MemoryPolicy(), 1024, 256),  # half of what the answer leaves
        (MemoryPolicy(), 32_768, 8192),  # never more than this by default
        (MemoryPolicy(kv_tokens=512), 1024, 512),
        (MemoryPolicy(kv_tokens=7, answer_tokens=16), 1024, 7),
        (MemoryPolicy(answer_tokens=1022), 1024, 1),
    ],
)
def test_kv_budget_is_what_was_asked_for_or_half_of_the_room(memory: MemoryPolicy, context: int, tokens: int) -> None:
    assert kv_budget(memory, context) == tokens


def test_kv_tokens_beyond_the_context_raise_with_the_most_there_can_be() -> None:
    with pytest.raises(PolicyError) as caught:
        kv_budget(MemoryPolicy(kv_tokens=513), 1024)
    assert caught.value.problem == (
        "memory.kv_tokens is 513, but the model's context of 1024 leaves 512 beside 512 for the answer."
    )
    assert caught.value.fix == "Set memory.kv_tokens to at most 512."


def test_answer_tokens_that_fill_the_context_raise() -> None:
    with pytest.raises(ResourceError) as caught:
        kv_budget(MemoryPolicy(answer_tokens=1023), 1024)
    assert caught.value.problem == "memory.answer_tokens is 1023, the model's context is 1024."


def test_pruner_history_has_its_own_bytes(tiny_bundle: Path) -> None:
    model = Model.open(tiny_bundle, FakeBackend())
    history = [StreamSession(model, Policy(pruner=PrunerPolicy(history=w))).memory_use.history for w in (1, 16)]
    assert history == [(48 + 1) * 4, 16 * (48 + 1) * 4]
