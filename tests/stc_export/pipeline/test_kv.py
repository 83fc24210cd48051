"""Bundles that keep keys and values in 8 bits: their plan, manifest and parity, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stc_engines import load_targets
from stc_export.cli.build import plan_text
from stc_export.cli.inspect import result_text
from stc_export.pipeline.build import plan_build
from stc_export.pipeline.inspect import inspect
from stc_export.pipeline.precisions import bundle_precisions, check_kv
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.errors import UnsupportedError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.memory import kv_slots
from stc_runtime import StreamSession

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("floats", "size"), [("fp32", 4), ("fp16", 2)])
def test_plan_counts_a_byte_for_a_code_and_a_scale_for_each_token_and_head(
    floats: str, size: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    request = BuildRequest(str(tiny_checkpoint), out=tmp_path / "x.stc", precision=floats)
    plain, few = plan_build(request), plan_build(replace(request, precision=f"{floats},kv=int8"))
    layers, heads, width = 2, 2, 16  # of the tiny checkpoint's LLM
    slots = kv_slots(request.policy.memory, 1024)
    assert plain.size.kv_bytes == 2 * layers * heads * slots * width * size
    assert few.size.kv_bytes == 2 * layers * heads * slots * (width + size)
    saved = plain.size.kv_bytes - few.size.kv_bytes
    assert plain.size.session_bytes - few.size.session_bytes == saved
    assert (
        few.fit.kv_per_1000_frames_bytes * plain.size.kv_bytes == plain.fit.kv_per_1000_frames_bytes * few.size.kv_bytes
    )
    assert few.size.disk_bytes == plain.size.disk_bytes
    moved = [{bound.stage: bound.moved_bytes for bound in plan.fit.stages} for plan in (plain, few)]
    assert {stage for stage in moved[0] if moved[0][stage] > moved[1][stage]} == {"prefill", "decode"}
    assert ", in int8" in plan_text(few)
    assert "int8" not in plan_text(plain)


def test_manifest_and_inspect_tell_it(tiny_kv_bundle_fp16: Path) -> None:
    manifest = read_manifest(tiny_kv_bundle_fp16)
    assert bundle_precisions(manifest).text == "fp16, kv int8"
    assert manifest.graph("llm").precision == "fp16"
    assert "fp16, kv int8, base graphs" in result_text(inspect(tiny_kv_bundle_fp16))


@pytest.mark.parametrize("name", ["tiny_kv_bundle", "tiny_kv_modern_bundle", "tiny_kv_bundle_fp16"])
def test_parity_has_its_own_tolerance_for_the_llm_alone(name: str, request: pytest.FixtureRequest) -> None:
    manifest = read_manifest(request.getfixturevalue(name))
    for case in manifest.parity:
        tolerances = {row.tolerance for row in case.outputs}
        assert case.passed
        if case.graph == "graphs/llm.onnx":
            assert tolerances == {0.05}
            groups = {"logits", "key_*_out", "key_scale_*_out", "value_*_out", "value_scale_*_out"}
            assert {row.output for row in case.outputs} == groups
        else:
            assert 0.05 not in tolerances


def test_answers_over_a_full_memory(tiny_kv_bundle_fp16: Path) -> None:
    rng = np.random.default_rng(0)
    policy = read_manifest(tiny_kv_bundle_fp16).policy
    small = replace(policy, memory=replace(policy.memory, kv_tokens=48, answer_tokens=60))
    with StreamSession.open(tiny_kv_bundle_fp16, small) as stream:
        gone = [
            stream.push(rng.integers(0, 256, (70, 70, 3), dtype=np.uint8), float(t)).evicted_frames for t in range(30)
        ]
        assert sum(gone) > 10
        assert list(stream.ask("What?", max_tokens=3))


def test_tensorrt_is_not_asked_to_write_codes_in_place(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = BuildRequest(str(tiny_checkpoint), target="rtx", out=tmp_path / "x.stc", precision="kv=int8")
    with pytest.raises(UnsupportedError) as caught:
        plan_build(request)
    assert caught.value.problem.startswith("On rtx graphs of the flavour modern cannot keep keys and values in int8")
    assert caught.value.fix == "Build with --flavour base."
    assert plan_build(replace(request, flavour="base")).kv == "int8"


def test_every_target_keeps_them_in_8_bits_in_one_flavour() -> None:
    for target in load_targets():
        check_kv("int8", "base", target)
        check_kv("floats", "modern", target)
