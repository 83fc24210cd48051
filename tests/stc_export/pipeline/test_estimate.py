"""Sizes before a build, against figures worked out by hand and against what a session reserves."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest

from stc_engines.table import Backend
from stc_export.pipeline.estimate import estimate, planned_graphs, resident_bytes, stored_files
from stc_export.pipeline.types import SizeEstimate
from stc_export.spec.errors import PolicyError, ResourceError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import SELECTIONS, CacherPolicy, MemoryPolicy, Policy, PrunerPolicy
from stc_runtime import StreamSession
from stc_runtime.model import Model
from tests.stc_export.pipeline.quick import prepared

if TYPE_CHECKING:
    from stc_export.spec.manifest import DType

ORT = Backend("ort", (), None)
#: Bytes of [T, C] and of all keys and values of one token of the tiny model, in elements: 25 x 32, 2 x 2 x 2 x 16.
FRAME, TOKEN = 800, 128


def sizes(
    checkpoint: Path, out: Path, policy: Policy, dtype: DType = "float32", backend: Backend = ORT
) -> SizeEstimate:
    ready = prepared(checkpoint, out, precision="fp32" if dtype == "float32" else "fp16")
    return estimate(ready.split, ready.model.dims, policy, ready.precisions, backend)


@pytest.mark.parametrize(
    ("selection", "update", "frames"),
    [
        ("gate", "rolling", 3 * 2 + 1 + 3),
        ("gate", "reference", 2 * (3 * 2 + 1) + 3),
        ("per_layer", "rolling", 3 * 4 + 3),
        ("shared", "reference", 2 * 3 * 4 + 3),
    ],
)
@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float16", 2)])
def test_feature_cache_counts_what_a_selection_keeps(
    tiny_checkpoint: Path, tmp_path: Path, selection: str, update: str, frames: int, dtype: DType, width: int
) -> None:
    policy = Policy(cacher=CacherPolicy(selection, update))  # type: ignore[arg-type]
    found = sizes(tiny_checkpoint, tmp_path / "x.stc", policy, dtype)
    assert found.feature_cache_bytes == frames * FRAME * width


def test_backend_that_cannot_write_in_place_needs_two_caches(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rolling, reference = (Policy(cacher=CacherPolicy("gate", update)) for update in ("rolling", "reference"))  # type: ignore[arg-type]
    found = sizes(tiny_checkpoint, tmp_path / "x.stc", rolling, backend=Backend("trt", (), None))
    assert found.feature_cache_bytes == sizes(tiny_checkpoint, tmp_path / "x.stc", reference).feature_cache_bytes


def test_two_streams_need_the_scratch_of_vit_and_llm_at_the_same_time(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Of the tiny model: 25 tokens with MLPs of 80 and 2 heads; 9 tokens with MLPs of 112 and 4 heads over 768 + 9."""
    vit, llm = 25 * max(3 * 80, 2 * 2 * 25) * 4, 9 * max(5 * 112, 3 * 4 * (768 + 9)) * 4
    for streams, expected in (("one", max(vit, llm)), ("two", vit + llm)):
        backend = replace(ORT, streams=streams)  # type: ignore[arg-type]
        found = sizes(tiny_checkpoint, tmp_path / "x.stc", Policy(), backend=backend)
        assert found.activations_bytes == expected


@pytest.mark.parametrize(("memory", "tokens"), [(MemoryPolicy(), 256 + 512), (MemoryPolicy(100, 16), 116)])
def test_kv_counts_memory_and_answer(tiny_checkpoint: Path, tmp_path: Path, memory: MemoryPolicy, tokens: int) -> None:
    """The tiny model's context is 1,024; by default half of what the answer leaves."""
    found = sizes(tiny_checkpoint, tmp_path / "x.stc", Policy(memory=memory))
    assert found.kv_bytes == tokens * TOKEN * 4


def test_activations_are_the_widest_moment_of_the_larger_part(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = sizes(tiny_checkpoint, tmp_path / "x.stc", Policy())
    vit = 25 * max(3 * 80, 2 * 2 * 25)
    llm = 9 * max(5 * 112, 3 * 4 * (768 + 9))
    assert found.activations_bytes == max(vit, llm) * 4
    total = found.weights_bytes + found.feature_cache_bytes + found.kv_bytes + found.activations_bytes
    assert found.session_bytes == total


@pytest.mark.parametrize("name", ["tiny", "tiny_fp16", "untied"])
def test_disk_and_weights_are_those_of_the_bundle(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    model, _, half = name.partition("_")
    checkpoint = request.getfixturevalue(f"{model}_checkpoint")
    bundle: Path = request.getfixturevalue(f"{model}_bundle_fp16" if half else f"{model}_bundle")
    ready = prepared(checkpoint, tmp_path / "x.stc", precision="fp16" if half else "fp32")
    found = estimate(ready.split, ready.model.dims, Policy(), ready.precisions, ORT)
    assert found.disk_bytes == sum(path.stat().st_size for path in (bundle / "graphs").glob("*.weights"))
    used = {}
    for graph in read_manifest(bundle).graphs:
        loaded = onnx.load(bundle / graph.file, load_external_data=False)
        places = [{item.key: item.value for item in tensor.external_data} for tensor in loaded.graph.initializer]
        used[graph.role, graph.variant] = sum(int(place.get("length", 0)) for place in places)
    assert {
        (graph.role, graph.variant): graph.weights_bytes for graph in planned_graphs(ready.split, ready.precisions)
    } == used
    session = (("cacher_gate", "default"), ("vit", "gate"), ("pruner", "stc_dual_anchor"), ("llm", "default"))
    assert found.weights_bytes == sum(used[key] for key in session)


@pytest.mark.parametrize("update", ["rolling", "reference"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_caches_are_those_that_a_session_reserves(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, selection: str, update: str
) -> None:
    cacher = CacherPolicy(selection, update)  # type: ignore[arg-type]
    policy = Policy(cacher=cacher, pruner=PrunerPolicy("none"), memory=MemoryPolicy(200, 64))
    found = sizes(tiny_checkpoint, tmp_path / "x.stc", policy)
    with StreamSession(Model.open(tiny_bundle), policy) as session:
        used = session.memory_use
    assert used.feature_cache == found.feature_cache_bytes
    assert used.kv == pytest.approx(found.kv_bytes, rel=0.03)


def test_kv_of_the_default_policy_is_what_a_session_reserves(
    siglip_checkpoint: Path, siglip_bundle: Path, tmp_path: Path
) -> None:
    found = sizes(siglip_checkpoint, tmp_path / "x.stc", Policy())
    with StreamSession.open(siglip_bundle) as session:
        assert session.memory_use.kv == pytest.approx(found.kv_bytes, rel=0.03)
        assert session.memory_use.feature_cache == found.feature_cache_bytes


@pytest.mark.parametrize(
    ("memory", "error"),
    [(MemoryPolicy(kv_tokens=1000), PolicyError), (MemoryPolicy(answer_tokens=1023), ResourceError)],
)
def test_memory_that_the_model_does_not_have_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, memory: MemoryPolicy, error: type[Exception]
) -> None:
    with pytest.raises(error, match="the model's context"):
        sizes(tiny_checkpoint, tmp_path / "x.stc", Policy(memory=memory))


#: Streams four frames, asks a question and prints the resident memory of the process.
PROCESS = """
import sys
from pathlib import Path
from stc_runtime import StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.runtime.scenes import scene

session = StreamSession.open(sys.argv[1], backend=OrtBackend(threads=1))
for number, frame in enumerate(scene(4)):
    session.push(frame, float(number))
list(session.ask("What moves?", max_tokens=4))
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")))
"""


@pytest.mark.parametrize("name", ["tiny", "tiny_fp16", "siglip"])
def test_resident_memory_of_a_process_is_predicted_within_15_percent(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    """Of 90 MB the process itself is most; with SigLIP so400m layers weights, state and arenas are."""
    model, _, half = name.partition("_")
    bundle = request.getfixturevalue(f"{model}_bundle_fp16" if half else f"{model}_bundle")
    ready = prepared(
        request.getfixturevalue(f"{model}_checkpoint"), tmp_path / "x.stc", precision="fp16" if half else "fp32"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(bundle)],
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ready.plan.resident_bytes == pytest.approx(int(done.stdout), rel=0.15)
    told = read_manifest(bundle).session
    assert told.resident_bytes == ready.plan.resident_bytes
    assert (told.kv_bytes, told.weights_bytes) == (ready.plan.size.kv_bytes, ready.plan.size.weights_bytes)


def test_resident_memory_counts_half_precision_as_float32(tiny_checkpoint: Path, tmp_path: Path) -> None:
    size = SizeEstimate(disk_bytes=0, weights_bytes=1000, feature_cache_bytes=30, kv_bytes=7, activations_bytes=100)
    assert resident_bytes(size, "float16") - resident_bytes(size, "float32") == 1000 + 220
    assert resident_bytes(replace(size, kv_bytes=8), "float32") - resident_bytes(size, "float32") == 1
    assert prepared(tiny_checkpoint, tmp_path / "x.stc", target="cuda").plan.resident_bytes is None


def test_places_of_weights_do_not_depend_on_the_other_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    ready = prepared(tiny_checkpoint, tmp_path / "x.stc")
    only = replace(ready.split, weights={"llm.weights": ready.split.weights["llm.weights"]})
    assert stored_files(only)["llm.weights"] == stored_files(ready.split)["llm.weights"]
