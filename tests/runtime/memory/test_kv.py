"""The KV memory against one record per token, and against attention over a memory that never evicted in place."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stc_export.spec.errors import ParityError, ResourceError
from stc_export.spec.memory import bucket_for
from stc_runtime.backends.device_store import DeviceStore, Scratch, Shared
from stc_runtime.backends.store import Tensor
from stc_runtime.memory import planner
from stc_runtime.memory.kv import KVMemory, KVShape
from stc_runtime.memory.rotary import shift_keys
from tests.reference.kv_codes import coded, decoded
from tests.reference.naive_kv import NaiveKV, Record, rotate
from tests.runtime.backends.fake_trt import FakeDevice

THETA = 10_000.0
SHAPE = KVShape(layers=2, kv_heads=3, head_dim=4, capacity=300, sink_capacity=9)


def new_tokens(rng: np.random.Generator, count: int, position: int) -> list[Record]:
    lead = (SHAPE.layers, SHAPE.kv_heads, SHAPE.head_dim)
    return [Record(rng.standard_normal(lead), rng.standard_normal(lead), position + i) for i in range(count)]


def put(place: Tensor, tokens: np.ndarray, device: FakeDevice | None = None) -> None:
    """Write tokens [1, Hkv, S, d] to where a graph would."""
    if isinstance(place, np.ndarray):
        place[...] = tokens
        return
    assert device is not None
    for head, rows in enumerate(tokens[0]):
        device.upload(place.address + head * place.pitch, np.ascontiguousarray(rows, place.dtype))


def write(kv: KVMemory, slot: int, records: list[Record], device: FakeDevice | None = None) -> None:
    """Write records as the LLM graph would give them, then use them."""
    kv.ensure(slot + len(records))
    places = kv.places(slot, slot + len(records))
    for layer in range(SHAPE.layers):
        keys = np.stack([rotate(r.key[layer], r.position, THETA) for r in records], axis=1)
        values = np.stack([r.value[layer] for r in records], axis=1)
        for name, rows in (("key", keys[None]), ("value", values[None])):
            if f"{name}_scale_{layer}_out" in places:
                rows, scales = coded(rows)
                put(places[f"{name}_scale_{layer}_out"], scales, device)
            put(places[f"{name}_{layer}_out"], rows, device)
    kv.used = slot + len(records)


def look(tensor: Tensor, device: FakeDevice | None = None) -> np.ndarray:
    """Return an array of the host, or a copy of one of a device."""
    if isinstance(tensor, np.ndarray):
        return tensor
    assert device is not None
    return np.frombuffer(bytes(device.at(tensor.address, tensor.nbytes)), tensor.dtype).reshape(tensor.shape)


def check_equal(kv: KVMemory, naive: NaiveKV, atol: float, device: FakeDevice | None = None) -> None:
    used = len(naive.records)
    assert kv.used == used
    assert kv.bucket >= used
    for layer in range(SHAPE.layers):
        keys, values = (look(tensor, device) for tensor in kv.past(layer))
        for view in (keys, values):
            assert view.shape == (1, SHAPE.kv_heads, kv.bucket, SHAPE.head_dim)
            assert view.flags.c_contiguous
            assert np.isfinite(view).all()
        if used:
            np.testing.assert_allclose(keys[0, :, :used], naive.keys(layer), rtol=0, atol=atol)
            np.testing.assert_array_equal(values[0, :, :used], naive.values(layer).astype(values.dtype))
    bias = kv.bias()
    assert bias.shape == (1, kv.bucket)
    assert (bias[0, :used] == 0).all()
    assert (bias[0, used:] == -65504).all()


class KVMachine(RuleBasedStateMachine):
    """Every operation in any order."""

    device: FakeDevice | None = None

    def make(self) -> KVMemory:
        return KVMemory(SHAPE, np.float32, THETA)

    @initialize(sink=st.integers(0, 9), seed=st.integers(0, 9))
    def begin(self, sink: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.kv = self.make()
        self.addresses = self._addresses()
        self.nbytes = self.kv.nbytes
        self.naive = NaiveKV(THETA)
        self._prompt(sink)

    @rule(count=st.integers(1, 90))
    def append(self, count: int) -> None:
        used = self.kv.used
        assume(used + count <= SHAPE.capacity)
        position = self.naive.records[-1].position + 1 if used else 0
        records = new_tokens(self.rng, count, position)
        write(self.kv, used, records, self.device)
        self.naive.records += records

    @rule(share=st.floats(0, 1))
    def evict(self, share: float) -> None:
        count = int(share * (self.kv.used - self.naive.sink))
        self.kv.evict(self.naive.sink, count, self.kv.used)
        self.naive.evict(count)

    @rule(origin=st.integers(0, 2000))
    def move_sink(self, origin: int) -> None:
        self.kv.move_sink(origin)
        self.naive.move_sink(origin)

    @rule(delta=st.integers(0, 2000))
    def rebase(self, delta: int) -> None:
        self.kv.rebase(delta, self.kv.used)
        self.naive.rebase(delta)

    @rule(count=st.integers(0, 20))
    def forget_last(self, count: int) -> None:
        count = min(count, self.kv.used - self.naive.sink)
        self.kv.used -= count
        del self.naive.records[self.kv.used :]

    @rule(slots=st.integers(0, SHAPE.capacity))
    def ensure(self, slots: int) -> None:
        self.kv.ensure(slots)
        assert self.kv.bucket >= slots

    @rule(sink=st.integers(0, 9))
    def reset(self, sink: int) -> None:
        self.kv.reset()
        self.naive = NaiveKV(THETA)
        assert self.kv.bucket == 64
        check_equal(self.kv, self.naive, 0, self.device)
        self._prompt(sink)

    @invariant()
    def equal_to_naive(self) -> None:
        check_equal(self.kv, self.naive, 3e-5, self.device)
        assert self.kv.nbytes == self.nbytes
        assert self._addresses() == self.addresses

    def _prompt(self, sink: int) -> None:
        if sink:
            records = new_tokens(self.rng, sink, 0)
            write(self.kv, 0, records, self.device)
            self.naive.records += records
        self.kv.set_sink(sink)
        self.naive.sink = sink

    def _addresses(self) -> list[int]:
        views = [view for layer in range(SHAPE.layers) for view in self.kv.past(layer)]
        return [v.ctypes.data if isinstance(v, np.ndarray) else v.address for v in (*views, self.kv.bias())]


class DeviceKVMachine(KVMachine):
    """The same with keys and values on a device."""

    def make(self) -> KVMemory:
        self.device = FakeDevice()
        shared = Shared(self.device, Scratch(self.device), threading.RLock())
        return KVMemory(SHAPE, np.float32, THETA, partial(DeviceStore, shared))


class CodedKVMachine(KVMachine):
    """The same in 8 bits. A key is rounded when it is written and when it is rebased, one of the sink twice in all."""

    def make(self) -> KVMemory:
        return KVMemory(replace(SHAPE, kv="int8"), np.float32, THETA)

    @initialize(sink=st.integers(0, 9), seed=st.integers(0, 9))
    def begin(self, sink: int, seed: int) -> None:
        self.rebases = 0
        super().begin(sink, seed)

    @rule(delta=st.integers(0, 2000))
    def rebase(self, delta: int) -> None:
        super().rebase(delta)
        self.rebases += 1

    @rule(sink=st.integers(0, 9))
    def reset(self, sink: int) -> None:
        self.kv.reset()
        self.naive, self.rebases = NaiveKV(THETA), 0
        assert not any(look(view, self.device).any() for layer in range(SHAPE.layers) for view in self.kv.past(layer))
        self._prompt(sink)

    @invariant()
    def equal_to_naive(self) -> None:
        used, sink = len(self.naive.records), self.naive.sink
        assert self.kv.used == used
        assert self.kv.nbytes == self.nbytes
        assert self._addresses() == self.addresses
        for layer in range(SHAPE.layers):
            keys, key_scales, values, value_scales = (look(view, self.device) for view in self.kv.past(layer))
            assert keys.dtype == values.dtype == np.int8
            assert keys.shape == values.shape == (1, SHAPE.kv_heads, self.kv.bucket, SHAPE.head_dim)
            assert key_scales.shape == value_scales.shape == (1, SHAPE.kv_heads, self.kv.bucket, 1)
            if not used:
                continue
            codes, scales = coded(self.naive.values(layer))
            np.testing.assert_array_equal(values[0, :, :used], codes)
            np.testing.assert_array_equal(value_scales[0, :, :used], scales.astype(np.float32))
            wanted = self.naive.keys(layer)
            errors = np.abs(decoded(keys, key_scales)[0, :, :used] - wanted)
            # A rotation keeps the length of a pair: half a code of the largest number that the row can have had.
            once = np.linalg.norm(wanted, axis=-1, keepdims=True) / 254 + 1e-5
            times = np.array([2] * sink + [1 + self.rebases] * (used - sink))[:, None]
            assert (errors <= once * times * 2**0.5 * 1.01).all()


class DeviceCodedKVMachine(CodedKVMachine):
    """The same on a device."""

    def make(self) -> KVMemory:
        self.device = FakeDevice()
        shared = Shared(self.device, Scratch(self.device), threading.RLock())
        return KVMemory(replace(SHAPE, kv="int8"), np.float32, THETA, partial(DeviceStore, shared))


TestKVMachine = KVMachine.TestCase
TestKVMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestCodedKVMachine = CodedKVMachine.TestCase
TestCodedKVMachine.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestDeviceCodedKVMachine = DeviceCodedKVMachine.TestCase
TestDeviceCodedKVMachine.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestDeviceKVMachine = DeviceKVMachine.TestCase
TestDeviceKVMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Attention of one query [Hkv, d] over keys and values [Hkv, P, d] with an additive bias [P]."""
    scores = np.einsum("hd,hpd->hp", query, keys) / 2 + bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("hp,hpd->hd", weights / weights.sum(axis=-1, keepdims=True), values)


@pytest.mark.parametrize("context", [160, 1000])
def test_apply_stream_attention_equals_memory_without_evicted_frames(context: int) -> None:
    """A question sees the prompt and the last frames as if nothing else had ever been pushed."""
    rng = np.random.default_rng(3)
    limits = planner.Limits(kv_tokens=100, answer_tokens=20, context=context)
    kv = KVMemory(SHAPE, np.float32, THETA)
    state = planner.start(limits, 7, 20, 30)
    prompt = new_tokens(rng, 7, 0)
    write(kv, 0, prompt)
    kv.set_sink(7)
    frames: list[tuple[list[Record], list[int], int]] = []
    rebases = 0
    for _ in range(60):
        offsets = sorted(rng.choice(30, int(rng.integers(1, 21)), replace=False).tolist())
        plan, state = planner.admit(state, "frame", len(offsets), 30)
        kv.apply(plan)
        records = new_tokens(rng, len(offsets), plan.position)
        placed = [Record(r.key, r.value, plan.position + o) for r, o in zip(records, offsets, strict=True)]
        write(kv, plan.slot, placed)
        frames = [*frames[plan.evicted_frames :], (records, offsets, 30)]
        rebases += plan.rebase_by > 0

        fresh, position = list(prompt), 7
        for tokens, places, span in frames:
            fresh += [Record(r.key, r.value, position + o) for r, o in zip(tokens, places, strict=True)]
            position += span
        naive = NaiveKV(THETA)
        naive.records = fresh
        query = rng.standard_normal((SHAPE.kv_heads, SHAPE.head_dim))
        expected = attend(rotate(query, position, THETA), naive.keys(1), naive.values(1), np.zeros(len(fresh)))
        place = planner.question(state, 5)
        keys, values = kv.past(1)
        got = attend(rotate(query, place.position, THETA), keys[0], values[0], kv.bias()[0])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    assert rebases > (20 if context == 160 else 0)


def test_move_sink_float16_hundred_thousand_moves_rounds_once() -> None:
    shape = KVShape(layers=1, kv_heads=1, head_dim=8, capacity=16, sink_capacity=4)
    kv = KVMemory(shape, np.float16, THETA)
    keys = np.random.default_rng(0).standard_normal((1, 1, 4, 8)).astype(np.float16)
    put(kv.places(0, 4)["key_0_out"], keys)
    kv.used = 4
    kv.set_sink(4)
    for move in range(100_000):
        kv.move_sink(move * 7919 % 32_768)
    kv.move_sink(12_345)
    exact = shift_keys(keys[0].astype(np.float32), 12_345, THETA)
    np.testing.assert_array_equal(kv.past(0)[0][0, :, :4], exact.astype(np.float16))
    kv.move_sink(0)
    np.testing.assert_array_equal(kv.past(0)[0][0, :, :4], keys[0])


def test_bucket_for_every_size_is_smallest_of_the_series() -> None:
    series = [64, 128, 192, 256, 320, 448, 576, 768, 960, 1000]
    for slots in range(1001):
        assert bucket_for(slots, 1000) == next(b for b in series if b >= slots)
    assert bucket_for(3, 40) == 40


def test_ensure_beyond_capacity_names_needed_and_got() -> None:
    kv = KVMemory(SHAPE, np.float32, THETA)
    with pytest.raises(ResourceError, match="has 300 slots, 301 are needed"):
        kv.ensure(301)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["key", "value"])
def test_written_number_that_is_not_finite_is_refused_and_memory_stays_finite(bad: float, what: str) -> None:
    kv = KVMemory(SHAPE, np.float16, THETA)
    for place in kv.places(0, 4).values():
        put(place, np.ones((1, 3, 4, 4)))
    broken = np.ones((1, 3, 2, 4))
    broken[0, 1, 1, 2] = bad
    put(kv.places(2, 4)[f"{what}_1_out"], broken)
    with pytest.raises(ParityError, match=r"Layer 1 .* not finite"):
        kv.check_written(2, 4)
    for view in (view for layer in range(2) for view in kv.past(layer)):
        assert view[0, :, :4, 0].tolist() == [[1, 1, 0, 0]] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["key", "value"])
def test_scale_that_is_not_finite_is_refused_and_memory_stays_finite(bad: float, what: str) -> None:
    kv = KVMemory(replace(SHAPE, kv="int8"), np.float16, THETA)
    for place in kv.places(0, 4).values():
        put(place, np.ones((1, 3, 4, 1)))
    put(kv.places(3, 4)[f"{what}_scale_1_out"], np.full((1, 3, 1, 1), bad))
    with pytest.raises(ParityError, match=r"Layer 1 .* not finite"):
        kv.check_written(2, 4)
    for view in (view for layer in range(2) for view in kv.past(layer)):
        assert view[0, :, :4, 0].tolist() == [[1, 1, 0, 0]] * 3


@pytest.mark.parametrize("slot", [-1, 63])
def test_slots_outside_bucket_refused(slot: int) -> None:
    with pytest.raises(ValueError, match="in a bucket of 64"):
        KVMemory(SHAPE, np.float32, THETA).check_room(slot, slot + 2)


def test_reset_leaves_no_number_of_the_stream_before() -> None:
    """One that is not finite would come through a weight of 0."""
    kv = KVMemory(SHAPE, np.float32, THETA)
    put(kv.places(7, 9)["key_1_out"], np.full((1, 3, 2, 4), np.inf))
    kv.ensure(200)
    kv.reset()
    kv.ensure(300)
    assert not any(view.any() for layer in range(2) for view in kv.past(layer))


def test_used_outside_bucket_refused() -> None:
    kv = KVMemory(SHAPE, np.float32, THETA)
    with pytest.raises(ValueError, match="65 used slots in a bucket of 64"):
        kv.used = 65


def test_set_sink_anew_takes_its_keys_from_position_zero() -> None:
    kv, tokens = KVMemory(SHAPE, np.float32, THETA), new_tokens(np.random.default_rng(0), 6, 0)
    naive = NaiveKV(THETA)
    for records in (tokens[:4], tokens[2:]):
        naive.sink, naive.records = 4, [Record(r.key, r.value, i) for i, r in enumerate(records)]
        write(kv, 0, naive.records)
        kv.set_sink(4)
        kv.move_sink(50)
        naive.move_sink(50)
        check_equal(kv, naive, 1e-6)


def test_set_sink_beyond_reserve_refused() -> None:
    with pytest.raises(ValueError, match="10 tokens, 9 reserved"):
        KVMemory(SHAPE, np.float32, THETA).set_sink(10)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 4), (np.float16, 2), (np.uint16, 2)])
def test_nbytes_counts_keys_values_bias_and_sink(dtype: type, size: int) -> None:
    kv = KVMemory(SHAPE, dtype, THETA)
    assert kv.nbytes == 2 * 2 * 3 * 300 * 4 * size + 300 * size + 2 * 3 * 9 * 4 * 4
    assert kv.past(0)[0].dtype == kv.bias().dtype == dtype


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 4), (np.float16, 2), (np.uint16, 2)])
def test_nbytes_counts_a_byte_for_a_code_and_a_scale_for_each_token_and_head(dtype: type, size: int) -> None:
    kv = KVMemory(replace(SHAPE, kv="int8"), dtype, THETA)
    assert kv.nbytes == 2 * 2 * 3 * 300 * (4 + size) + 300 * size + 2 * 3 * 9 * 4 * 4


def test_two_memories_never_share_bytes() -> None:
    first, second = KVMemory(SHAPE, np.float32, THETA), KVMemory(SHAPE, np.float32, THETA)
    write(first, 0, new_tokens(np.random.default_rng(0), 5, 0))
    assert not any(view.any() for layer in range(2) for view in second.past(layer))
    assert (second.bias() == -65504).all()


# --- bfloat16, which numpy carries as uint16 ------------------------------------------------------------------------


def in_bfloat16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def number(array: np.ndarray) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16).astype(np.float64)


def test_bfloat16_hides_slots_by_the_nearest_number() -> None:
    kv = KVMemory(SHAPE, np.uint16, THETA)
    kv.used = 3
    assert number(kv.bias())[0, :4].tolist() == [0.0, 0.0, 0.0, -65536.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 30_000), st.integers(0, 2**32 - 1))
def test_bfloat16_keys_move_like_those_of_a_memory_that_never_rounds(
    sink: int, count: int, delta: int, seed: int
) -> None:
    """Each number is rounded when it is written and once more when it is moved: at most 2^-8 of a pair's length."""
    records = new_tokens(np.random.default_rng(seed), sink + count, delta)
    naive = NaiveKV(THETA)
    naive.sink, naive.records = sink, [replace(r, position=i) if i < sink else r for i, r in enumerate(records)]
    kv = KVMemory(SHAPE, np.uint16, THETA)
    kv.ensure(len(records))
    for layer in range(SHAPE.layers):
        values = np.stack([r.value[layer] for r in naive.records], axis=1)
        places = kv.places(0, len(records))
        put(places[f"key_{layer}_out"], in_bfloat16(naive.keys(layer))[None])
        put(places[f"value_{layer}_out"], in_bfloat16(values)[None])
    kv.used = len(records)
    kv.set_sink(sink)
    kv.rebase(delta, len(records))
    naive.rebase(delta)
    for layer in range(SHAPE.layers):
        keys, values = (number(view)[0, :, : len(records)] for view in kv.past(layer))
        expected = naive.keys(layer)
        np.testing.assert_allclose(keys, expected, rtol=0, atol=2.0**-7 * np.abs(expected).max() * 2**0.5)
        np.testing.assert_array_equal(values, number(in_bfloat16(naive.values(layer))))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0x7F81])
def test_bfloat16_that_is_not_finite_is_refused(bits: int) -> None:
    """As uint16 every one of them would pass for a number."""
    kv = KVMemory(SHAPE, np.uint16, THETA)
    kv.check_written(0, 2)
    kv.past(0)[1][0, 1, 0, 2] = bits
    with pytest.raises(ParityError, match="Layer 0"):
        kv.check_written(0, 2)
    assert not any(view.any() for view in kv.past(0))
