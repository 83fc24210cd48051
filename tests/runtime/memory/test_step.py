"""Who writes the new keys and values: the backend behind the others, or the graph in place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from stc_export.spec.errors import BundleError, ParityError, ResourceError
from stc_export.spec.manifest import Flavour, Manifest
from stc_export.spec.policy import MemoryPolicy, Policy
from stc_runtime import Bundle, StreamSession
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.interface import check_interface
from stc_runtime.memory.kv import KVMemory, KVShape
from stc_runtime.memory.step import LLM_FORMS, Slots
from stc_runtime.testing import FakeBackend

if TYPE_CHECKING:
    from pathlib import Path

    from stc_runtime.backends.base import Arrays

SLOTS, HEADS, WIDTH, LAYERS = 100, 2, 4, 2


def memory(flavour: Flavour) -> KVMemory:
    least = {"base": 0, "modern": SLOTS}[flavour]
    return KVMemory(KVShape(LAYERS, HEADS, WIDTH, SLOTS, 8, least), np.float32, 1e4)


class Written:
    """An LLM whose new keys are 1 to S and whose new values are the negatives, for either flavour."""

    def __init__(self, bad: float | None = None, logit: float = 7) -> None:
        self.bad, self.logit, self.copied = bad, logit, True

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, Any]:
        count = feeds["inputs_embeds"].shape[1]
        rows = np.broadcast_to(np.arange(1, count + 1, dtype=np.float32)[:, None], (1, HEADS, count, WIDTH)).copy()
        outputs: dict[str, Any] = {"logits": np.full((1, 5), self.logit, np.float32)}
        for layer in range(LAYERS):
            for name, sign in (("key", 1), ("value", -1)):
                new = sign * rows
                if self.bad is not None and (layer, name) == (1, "value"):
                    new[0, 1, -1, 2] = self.bad
                outputs |= self._kept(f"{name}_{layer}", new, feeds, into)
        return outputs

    def _kept(self, name: str, new: Any, feeds: Arrays, into: Arrays) -> dict[str, Any]:
        before, after = feeds[f"{name}_in"], into[f"{name}_out"]
        if "write_slot" not in feeds:
            after[...] = new
            return {}
        self.copied = not np.shares_memory(before, after) or before.ctypes.data != after.ctypes.data
        slot = int(feeds["write_slot"][0])
        after[:, :, slot : slot + new.shape[2]] = new
        return {}


def feeds(kv: KVMemory, count: int) -> dict[str, Any]:
    return {"inputs_embeds": np.zeros((1, count, 3), np.float32), "past_bias": kv.bias()}


@pytest.mark.parametrize("flavour", get_args(Flavour))
def test_new_keys_and_values_lie_behind_the_others(flavour: Flavour) -> None:
    kv = memory(flavour)
    for layer in range(LAYERS):
        kv.past(layer)[0][:] = 50.0
    engine = Written()
    logits = LLM_FORMS[flavour].run(engine, kv, feeds(kv, 3), 5)()
    assert logits.tolist() == [[7] * 5]
    for layer in range(LAYERS):
        keys, values = kv.past(layer)
        assert keys[0, :, 4:9, 0].tolist() == [[50, 1, 2, 3, 50]] * HEADS
        assert values[0, :, 4:9, 3].tolist() == [[0, -1, -2, -3, 0]] * HEADS
    assert engine.copied == (flavour == "base")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("flavour", get_args(Flavour))
def test_number_that_is_not_finite_is_told_and_spoils_nothing(flavour: Flavour, bad: float) -> None:
    kv = memory(flavour)
    LLM_FORMS[flavour].run(Written(), kv, feeds(kv, 2), 0)
    with pytest.raises(ParityError, match="Layer 1 of the language model gave numbers that are not finite"):
        LLM_FORMS[flavour].run(Written(bad), kv, feeds(kv, 3), 2)
    for layer in range(LAYERS):
        keys, values = kv.past(layer)
        assert np.isfinite(keys).all()
        assert np.isfinite(values).all()
        assert keys[0, 0, :2, 0].tolist() == [1, 2]


@pytest.mark.parametrize("flavour", get_args(Flavour))
def test_logits_that_are_not_finite_are_told_and_what_was_written_with_them_is_gone(flavour: Flavour) -> None:
    """A backend whose memory is on a device has nothing else to look at."""
    kv = memory(flavour)
    logits = LLM_FORMS[flavour].run(Written(logit=np.nan), kv, feeds(kv, 3), 2)
    with pytest.raises(ParityError, match="The language model gave numbers that are not finite"):
        logits()
    assert not any(view.any() for layer in range(LAYERS) for view in kv.past(layer))


@pytest.mark.parametrize("flavour", get_args(Flavour))
def test_tokens_that_leave_the_memory_are_refused(flavour: Flavour) -> None:
    kv = memory(flavour)
    with pytest.raises(ValueError, match="in a bucket of"):
        LLM_FORMS[flavour].run(Written(), kv, feeds(kv, 3), SLOTS - 2)


def test_memory_of_a_graph_that_writes_has_one_size() -> None:
    kv = memory("modern")
    assert (kv.bucket, kv.bias().shape, kv.past(0)[0].shape) == (SLOTS, (1, SLOTS), (1, HEADS, SLOTS, WIDTH))
    kv.ensure(70)
    kv.reset()
    assert kv.bucket == SLOTS


# --- bundles ---------------------------------------------------------------------------------------------------------


def test_slots_are_the_policys_or_those_that_were_built(tiny_bundle: Path, tiny_modern_bundle: Path) -> None:
    base, modern = (Bundle.open(path).manifest for path in (tiny_bundle, tiny_modern_bundle))
    assert LLM_FORMS["base"].slots(base, 77) == Slots(77, 0)
    assert LLM_FORMS["modern"].slots(modern, 77) == Slots(1024, 1024)


def test_policy_that_needs_more_slots_than_were_built_says_so(tiny_modern_bundle: Path) -> None:
    manifest = Bundle.open(tiny_modern_bundle).manifest
    with pytest.raises(ResourceError) as caught:
        LLM_FORMS["modern"].slots(manifest, 1025)
    assert caught.value.problem == (
        "The policy needs 1025 slots (memory.kv_tokens and memory.answer_tokens), and the language model of this "
        "bundle was built with 1024."
    )
    assert "--policy FILE" in caught.value.fix


@pytest.mark.parametrize("name", ["tiny_modern_bundle", "tiny_modern_bundle_fp16"])
def test_session_with_a_small_policy_runs_in_the_slots_that_were_built(
    name: str, request: pytest.FixtureRequest
) -> None:
    policy = Policy(memory=MemoryPolicy(kv_tokens=40, answer_tokens=64))
    with StreamSession.open(request.getfixturevalue(name), policy, FakeBackend()) as session:
        for number in range(30):
            session.push(np.full((70, 70, 3), 8 * number, np.uint8), float(number))
        assert session.remembered_tokens <= 40


def feeds_of(manifest: Manifest) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0)
    feeds = {}
    for spec in manifest.graph("llm").inputs:
        shape = [3 if size == "S" else int(size) for size in spec.shape]
        feeds[spec.name] = numbers.standard_normal(shape).astype(spec.dtype)
    feeds["position_ids"][...] = [[4, 5, 6]]
    return {**feeds, "past_bias": np.where(np.arange(1024) < 4, 0, -65504)[None].astype(feeds["past_bias"].dtype)}


@pytest.mark.parametrize("name", ["tiny_modern_bundle", "tiny_modern_bundle_fp16"])
def test_onnx_runtime_writes_the_cache_in_place_without_a_copy(
    name: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """It warns when it copies, if it is asked to say so."""
    bundle = Bundle.open(request.getfixturevalue(name))
    graph = bundle.manifest.graph("llm")
    engine: Any = OrtBackend(threads=1).open(bundle.root, graph)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    engine._session = onnxruntime.InferenceSession(
        str(bundle.root / graph.file), options, providers=["CPUExecutionProvider"]
    )
    fed = {**feeds_of(bundle.manifest), "write_slot": np.array([4])}
    names = [spec.name for spec in graph.outputs if spec.name != "logits"]
    before = {key: value.copy() for key, value in fed.items()}
    capfd.readouterr()
    apart = engine.run(fed, {})
    assert "in-place optimization not activated" in capfd.readouterr().err
    together = engine.run(fed, {name: fed[name.replace("_out", "_in")] for name in names})
    assert "in-place" not in capfd.readouterr().err
    np.testing.assert_array_equal(together["logits"], apart["logits"])
    for port in names:
        here = fed[port.replace("_out", "_in")]
        np.testing.assert_array_equal(here, apart[port])
        np.testing.assert_array_equal(
            np.delete(here, [4, 5, 6], axis=2), np.delete(before[port.replace("_out", "_in")], [4, 5, 6], axis=2)
        )


def test_new_tokens_see_the_past_and_those_before_them_only(tiny_modern_bundle: Path) -> None:
    """What lies in hidden slots, and in the slots that are written, changes nothing; what is seen does."""
    bundle = Bundle.open(tiny_modern_bundle)
    engine = OrtBackend(threads=1).open(bundle.root, bundle.manifest.graph("llm"))
    fed = {**feeds_of(bundle.manifest), "write_slot": np.array([4])}

    def logits(slots: slice) -> np.ndarray:
        changed = {name: value.copy() for name, value in fed.items()}
        for name, array in changed.items():
            if name.startswith(("key_", "value_")):
                array[:, :, slots] = 3.0
        return np.asarray(engine.run(changed, {})["logits"])

    alone = logits(slice(0, 0))
    np.testing.assert_array_equal(logits(slice(7, 1024)), alone)
    np.testing.assert_array_equal(logits(slice(4, 7)), alone)
    assert np.abs(logits(slice(3, 4)) - alone).max() > 1e-3


def test_manifest_whose_policy_has_other_slots_than_its_graph_is_refused(tiny_modern_bundle: Path) -> None:
    manifest = Bundle.open(tiny_modern_bundle).manifest
    for memory_policy in (MemoryPolicy(kv_tokens=500, answer_tokens=100), MemoryPolicy(kv_tokens=5000)):
        other = replace(manifest, policy=Policy(memory=memory_policy))
        with pytest.raises(BundleError, match=r"declares the input key_0_in as float32 \[1, 2, 1024, 16\], expected"):
            check_interface(other, "my.stc")
