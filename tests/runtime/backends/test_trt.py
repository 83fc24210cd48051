"""Backend ``trt`` on a device that is none: what it asks of TensorRT, and what it says when that fails."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stc_engines.profiles import profiles_of
from stc_export.spec.engines import plan_name
from stc_export.spec.errors import BundleError, DeviceError, ResourceError
from stc_export.spec.memory import bucket_for, kept_tokens
from stc_export.spec.policy import Budget, CacherPolicy, GatePolicy, MemoryPolicy, Policy, PrunerPolicy
from stc_runtime import Bundle, Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.replay import MOST_CALLS
from stc_runtime.dtypes import declared
from stc_runtime.footprint import kv_bytes
from stc_runtime.goldens import Goldens, run_goldens
from tests.runtime.backends.fake_trt import FakeDevice, FakeTensorRt, any_shape, fake_backend, make_backend, write_plans
from tests.runtime.scenes import scene


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(params=["tiny_bundle", "tiny_modern_bundle", "runnable_bundle_bf16", "runnable_modern_bundle_bf16"])
def either(request: pytest.FixtureRequest) -> Bundle:
    """A bundle of each flavour, in a type that numpy has and in one that it has not."""
    return Bundle.open(request.getfixturevalue(request.param))


def feeds(bundle: Bundle, role: Any, variant: str = "default", **letters: int) -> dict[str, np.ndarray]:
    graph = bundle.manifest.graph(role, variant)
    sizes = {spec.name: [letters[d] if isinstance(d, str) else d for d in spec.shape] for spec in graph.inputs}
    return {spec.name: np.zeros(sizes[spec.name], spec.dtype) for spec in graph.inputs}


def vit(bundle: Bundle, tokens: int) -> dict[str, np.ndarray]:
    return {**feeds(bundle, "vit", "gate", R=tokens), "indices": np.arange(tokens)}


def test_all_engines_give_what_the_goldens_say(either: Bundle, tmp_path: Path) -> None:
    """Also that the profiles which engines are built with have room for every case."""
    backend, goldens = fake_backend(either, tmp_path, any_shape), Goldens.open(either.root)
    for graph in either.manifest.graphs:
        rows = run_goldens(goldens, graph.file, backend.open(either.root, graph), lambda _case, run: run())
        assert rows
        assert all(row.passed for row in rows)


def play(bundle: Bundle, backend: Any, policy: Policy) -> tuple[list[Any], list[list[int]]]:
    """Push 24 frames, with a question after every sixth; return what was done and what was answered."""
    reports, answers = [], []
    with StreamSession(Model(bundle, backend), policy) as stream:
        for number, frame in enumerate(scene(24)):
            reports.append(stream.push(frame, number / 2))
            if number % 6 == 5:
                answers.append(list(stream.ask_tokens((5, 6, 7), max_tokens=4)))
    return [(r.mode, r.recomputed, r.kept_indices, r.similarity, r.evicted_frames) for r in reports], answers


#: So little memory that frames are evicted, in as many slots as a bundle of either flavour has.
SMALL = MemoryPolicy(kv_tokens=40, answer_tokens=700)
POLICIES = {
    "adaptive": Policy(memory=SMALL),
    "paper": Policy(GatePolicy("paper"), CacherPolicy(update="reference"), memory=SMALL),
    "rolling": Policy(GatePolicy("paper"), CacherPolicy("per_layer", "rolling", interval=4), memory=SMALL),
}


@pytest.mark.parametrize("capturable", [True, False])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))
def test_a_stream_is_the_same_as_with_onnx_runtime(
    either: Bundle, tmp_path: Path, policy: Policy, *, capturable: bool
) -> None:
    """State stays on the device, calls that come again are CUDA graphs, and the numbers are the same in every bit."""
    device = FakeDevice()
    device.capturable = capturable
    folder = write_plans(either.root, either.manifest, tmp_path)
    found = play(either, make_backend(FakeTensorRt(device, any_shape), device, folder), policy)
    assert found == play(either, OrtBackend(threads=1), policy)
    assert any(evicted for *_, evicted in found[0])
    assert (device.launched > 20) == capturable


def test_a_stream_whose_positions_are_renumbered_is_the_same(bundle: Bundle, tmp_path: Path) -> None:
    policy = Policy(GatePolicy("off"), memory=MemoryPolicy(kv_tokens=40, answer_tokens=970))
    backend = fake_backend(bundle, tmp_path, any_shape)
    assert play(bundle, backend, policy) == play(bundle, OrtBackend(threads=1), policy)


@pytest.mark.parametrize("budget", ["vidcom2", "dtd"])
def test_a_stream_whose_frames_keep_other_counts_is_the_same_with_engines_as_they_are_built(
    bundle: Bundle, tmp_path: Path, budget: Budget
) -> None:
    """Features are on the device when the pruner runs for the second time, and K changes from frame to frame."""
    pruner = PrunerPolicy("evs", keep=0.4, history=4, budget=budget, threshold=0.99)
    policy = Policy(GatePolicy("paper"), pruner=pruner, memory=replace(SMALL, answer_tokens=500))
    found = play(bundle, fake_backend(bundle, tmp_path, profiles_of), policy)
    assert found == play(bundle, OrtBackend(threads=1), policy)
    assert len({len(kept) for _, _, kept, *_ in found[0]}) > 2


def test_of_a_frame_only_what_the_host_decides_goes_up_and_what_it_reads_comes_down(
    bundle: Bundle, tmp_path: Path
) -> None:
    backend = fake_backend(bundle, tmp_path, any_shape)
    device: Any = backend._device
    moved = []
    with StreamSession(Model(bundle, backend), Policy(GatePolicy("off"), memory=MemoryPolicy(1000, 24))) as stream:
        for number, frame in enumerate(scene(12)):
            device.up = device.down = 0
            stream.push(frame, number / 2)
            moved.append((device.up, device.down))
    vision, text, pruner = bundle.manifest.dims.vision, bundle.manifest.dims.text, stream.policy.pruner
    kept = kept_tokens(vision.visual_tokens, pruner.keep)
    entry = bundle.manifest.pruner(pruner.method).history_width
    slots = bucket_for(stream.remembered_tokens + 24, 1024)
    history = 4 * pruner.history * (entry + 1)
    told = 8 + 4 + 4  # of each token: its number, gain and drift
    up = 3 * vision.image_size**2 + vision.tokens * told + history + 8 * kept  # to the ViT and the pruner
    up += 4 + 4 * kept * text.width + 8 * kept + 4 * slots  # alpha of the pruner; to the LLM
    down = 4 * (vision.tokens + 3) + 4 * kept * text.width + 8 * kept + 4 * entry + 4 * text.vocab
    assert moved[-1] == (up, down)
    assert {down for _, down in moved} == {down}


def test_keys_and_values_do_not_travel(either: Bundle, tmp_path: Path) -> None:
    """Not even when frames are evicted, an answer is forgotten, or one is remembered: only the few keys of the sink,
    which the host moves to other positions, go up."""
    backend = fake_backend(either, tmp_path, any_shape)
    device: Any = backend._device
    policy = Policy(GatePolicy("off"), memory=MemoryPolicy(kv_tokens=40, answer_tokens=900))
    dims, dtype = either.manifest.dims, declared(Model(either, backend).dtype)
    with StreamSession(Model(either, backend), policy) as stream:
        sink = stream.remembered_tokens
        pushed = []
        for number, frame in enumerate(scene(20)):
            device.up = device.down = 0
            evicted = stream.push(frame, number / 2).evicted_frames
            pushed.append((device.up, device.down, evicted))
        device.down = 0
        for remember in (False, True):
            steps = sum(1 for _ in stream._generate((5, 6, 7), 4, None, remember=remember))
            assert device.down <= 4 * dims.text.vocab * (steps + 2 * remember)
            device.down = 0
    assert len({down for _, down, _ in pushed}) == 1, "as if the cache were not there"
    assert {evicted for *_, evicted in pushed} == {0, 1}
    plain, evicting = ({up for up, _, gone in pushed if gone == evicted} for evicted in (0, 1))
    assert max(evicting) - min(plain) <= kv_bytes(dims, sink, dtype, "floats") // 2


def test_call_that_comes_a_third_time_is_one_launch(bundle: Bundle, tmp_path: Path) -> None:
    backend = fake_backend(bundle, tmp_path)
    device: Any = backend._device
    engine: Any = backend.open(bundle.root, bundle.manifest.graph("vit", "gate"))
    launched = []
    for count in (4, 4, 4, 4, 3, 4, 3, 3):
        engine.run(vit(bundle, count), {})
        launched.append(device.launched)
    assert launched == [0, 0, 1, 2, 2, 3, 3, 4]
    assert len(engine._engine.contexts) == 3, "one for the profile, one for each graph"


def test_replayed_call_reads_what_is_fed_this_time(bundle: Bundle, tmp_path: Path) -> None:
    engine = fake_backend(bundle, tmp_path).open(bundle.root, bundle.manifest.graph("pruner", "none"))
    plain = OrtBackend(threads=1).open(bundle.root, bundle.manifest.graph("pruner", "none"))
    for number in range(5):
        fed = {"features": np.full(feeds(bundle, "pruner", "none")["features"].shape, number, np.float32)}
        assert engine.run(fed, {})["visual_tokens"].tobytes() == plain.run(fed, {})["visual_tokens"].tobytes()


def test_graphs_of_calls_that_do_not_come_again_are_given_back(bundle: Bundle, tmp_path: Path) -> None:
    backend = fake_backend(bundle, tmp_path, any_shape)
    device: Any = backend._device
    engine = backend.open(bundle.root, bundle.manifest.graph("llm"))
    for slots in range(1, MOST_CALLS + 11):
        for _ in range(2):
            engine.run(feeds(bundle, "llm", S=1, P=slots), {})
    assert sum(1 for graph in device.graphs if not graph) == 10
    assert len(device.graphs) == MOST_CALLS + 10


def test_memory_of_a_session_is_given_back_with_it(bundle: Bundle, tmp_path: Path) -> None:
    backend = fake_backend(bundle, tmp_path, any_shape)
    device: Any = backend._device
    model = Model(bundle, backend)

    def use() -> int:
        with StreamSession(model, POLICIES["paper"]) as stream:
            stream.push(scene(1)[0], 0)
            assert stream.memory_use.feature_cache + stream.memory_use.kv < sum(map(len, device.memory.values()))
        del stream
        gc.collect()
        return sum(map(len, device.memory.values()))

    assert use() == use() == use()


def test_narrow_profile_is_preferred_and_each_has_one_context(bundle: Bundle, tmp_path: Path) -> None:
    engine: Any = fake_backend(bundle, tmp_path).open(bundle.root, bundle.manifest.graph("vit", "gate"))
    tokens = bundle.manifest.dims.vision.tokens
    for count in (tokens, 3, 7, tokens - 1):
        engine.run(vit(bundle, count), {})
    assert [context._profile for context in engine._engine.contexts] == [0, 1]
    assert engine._choose(vit(bundle, tokens)) == 0
    assert engine._choose(vit(bundle, tokens - 1)) == 1


def test_decoding_takes_its_own_profile(bundle: Bundle, tmp_path: Path) -> None:
    engine: Any = fake_backend(bundle, tmp_path).open(bundle.root, bundle.manifest.graph("llm"))
    room = engine._profiles[0]["past_bias"][0][1]
    assert engine._choose(feeds(bundle, "llm", S=1, P=room)) == 1
    assert engine._choose(feeds(bundle, "llm", S=2, P=room)) == 0


def test_shape_that_nobody_built_for_says_so(bundle: Bundle, tmp_path: Path) -> None:
    engine = fake_backend(bundle, tmp_path).open(bundle.root, bundle.manifest.graph("llm"))
    with pytest.raises(BundleError, match=r'The engine of "graphs/llm\.onnx" was not built for inputs_embeds \[1, 1,'):
        engine.run(feeds(bundle, "llm", S=1, P=1 << 14), {})


def test_buffers_grow_and_none_is_lost(bundle: Bundle, tmp_path: Path) -> None:
    device = FakeDevice()
    folder = write_plans(bundle.root, bundle.manifest, tmp_path)
    backend = make_backend(FakeTensorRt(device), device, folder)
    graph = bundle.manifest.graph("vit", "gate")
    engine = backend.open(bundle.root, graph)
    scratch = sum(map(len, device.memory.values()))
    sizes = []
    for tokens in (2, 9, 4, 9):
        engine.run(vit(bundle, tokens), {})
        sizes.append(sum(map(len, device.memory.values())) - scratch)
        assert sum(map(len, device.host.values())) == sizes[-1]
    assert sizes[0] < sizes[1] == sizes[2] == sizes[3]
    assert len(device.memory) == len(graph.inputs) + len(graph.outputs) + 1


def test_calls_from_several_threads_do_not_mix(bundle: Bundle, tmp_path: Path) -> None:
    engine = fake_backend(bundle, tmp_path, any_shape).open(bundle.root, bundle.manifest.graph("pruner", "none"))
    wrong: list[int] = []

    def work(number: int) -> None:
        fed = {"features": np.full(feeds(bundle, "pruner", "none")["features"].shape, number, np.float32)}
        alone = OrtBackend(threads=1).open(bundle.root, bundle.manifest.graph("pruner", "none")).run(fed, {})
        found = [engine.run(fed, {})["visual_tokens"].tobytes() for _ in range(20)]
        wrong.extend(number for tokens in found if tokens != alone["visual_tokens"].tobytes())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_plan_that_cannot_be_loaded_is_never_passed_on(bundle: Bundle, tmp_path: Path) -> None:
    backend = fake_backend(bundle, tmp_path)
    graph = bundle.manifest.graph("llm")
    (tmp_path / plan_name(graph)).write_bytes(b"of another version")
    with pytest.raises(BundleError, match=r"cannot load .*llm\.plan\" \(magic tag does not match\)") as caught:
        backend.open(bundle.root, graph)
    assert f"stc-export seal {bundle.root}" in caught.value.fix


def test_missing_plan_says_how_to_get_it(bundle: Bundle, tmp_path: Path) -> None:
    backend = fake_backend(bundle, tmp_path)
    graph = bundle.manifest.graph("llm")
    (tmp_path / plan_name(graph)).unlink()
    with pytest.raises(BundleError, match="is missing"):
        backend.open(bundle.root, graph)


def test_engine_of_another_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    backend = fake_backend(bundle, tmp_path)
    llm, vit_gate = bundle.manifest.graph("llm"), bundle.manifest.graph("vit", "gate")
    (tmp_path / plan_name(llm)).write_bytes((tmp_path / plan_name(vit_gate)).read_bytes())
    with pytest.raises(BundleError, match="has another delta_in than the manifest declares"):
        backend.open(bundle.root, llm)


def test_device_without_memory_is_a_lack_of_resources(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_plans(bundle.root, bundle.manifest, tmp_path)
    device = FakeDevice(most=2000)
    backend = make_backend(FakeTensorRt(device), device, folder)
    engine = backend.open(bundle.root, bundle.manifest.graph("cacher_gate"))
    for action in (lambda: engine.run(feeds(bundle, "cacher_gate"), {}), lambda: backend.store(1000, np.float32)):
        with pytest.raises(ResourceError) as caught:
            action()
        assert caught.value.exit_code == 4
    none = FakeDevice(most=1000)
    with pytest.raises(ResourceError):
        make_backend(FakeTensorRt(none), none, folder).open(bundle.root, bundle.manifest.graph("cacher_gate"))


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("execute_async_v3", DeviceError),
        ("set_input_shape", DeviceError),
        ("set_tensor_address", DeviceError),
        ("set_optimization_profile_async", DeviceError),
    ],
)
def test_refusal_of_tensorrt_is_an_error(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: type[Exception]
) -> None:
    engine = fake_backend(bundle, tmp_path).open(bundle.root, bundle.manifest.graph("cacher_gate"))
    monkeypatch.setattr(f"tests.runtime.backends.fake_trt.IExecutionContext.{method}", lambda *_: False)
    with pytest.raises(error, match=r'refuses to run "graphs/cacher_gate\.onnx"'):
        engine.run(feeds(bundle, "cacher_gate"), {})


def test_context_that_is_none_is_a_lack_of_memory(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fake_backend(bundle, tmp_path).open(bundle.root, bundle.manifest.graph("cacher_gate"))
    monkeypatch.setattr("tests.runtime.backends.fake_trt.ICudaEngine.create_execution_context", lambda *_: None)
    with pytest.raises(ResourceError, match="no memory to run"):
        engine.run(feeds(bundle, "cacher_gate"), {})
