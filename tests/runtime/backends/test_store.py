"""Stores of the host and of a device against a plain array, under any sequence of operations."""

from __future__ import annotations

import threading
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stc_runtime.backends.device_store import DeviceStore, Scratch, Shared
from stc_runtime.backends.store import DeviceArray, HostStore, Store
from tests.runtime.backends.fake_trt import FakeDevice

COUNT, WIDTH = 60, 5
PLACES = st.integers(0, COUNT)


def device_store(device: FakeDevice, count: int = COUNT, dtype: Any = np.float16) -> DeviceStore:
    return DeviceStore(Shared(device, Scratch(device), threading.RLock()), count, dtype)


class StoreMachine(RuleBasedStateMachine):
    """A store and the array that it should be."""

    @initialize(where=st.sampled_from(["host", "device"]), seed=st.integers(0, 9))
    def begin(self, where: str, seed: int) -> None:
        device = FakeDevice()
        makers = {"host": lambda: HostStore(COUNT, np.float16), "device": lambda: device_store(device)}
        self.store: Store = makers[where]()
        self.other: Store = makers[where]()
        self.random = np.random.default_rng(seed)
        self.other_plain = self.random.normal(size=COUNT).astype(np.float16)
        self.other.write(0, self.other_plain)
        self.plain = np.zeros(COUNT, np.float16)

    @rule(start=PLACES, count=PLACES)
    def write(self, start: int, count: int) -> None:
        count = min(count, COUNT - start)
        values = self.random.normal(size=(1, count)).astype(np.float16)
        self.store.write(start, values)
        self.plain[start : start + count] = values[0]

    @rule(to=PLACES, start=PLACES, count=PLACES)
    def move(self, to: int, start: int, count: int) -> None:
        count = min(count, COUNT - start, COUNT - to)
        self.store.move(to, start, count)
        self.plain[to : to + count] = self.plain[start : start + count].copy()

    @rule(rows=st.sets(st.integers(0, COUNT // WIDTH - 1)))
    def take_rows(self, rows: set[int]) -> None:
        chosen = np.array(sorted(rows), np.int64)
        self.store.take_rows(self.other.tensor((COUNT // WIDTH, WIDTH)), chosen)
        self.plain.reshape(-1, WIDTH)[chosen] = self.other_plain.reshape(-1, WIDTH)[chosen]

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.plain[:] = 0

    @rule(start=PLACES, count=PLACES)
    def read(self, start: int, count: int) -> None:
        count = min(count, COUNT - start)
        found = self.store.read(start, count)
        assert found.tobytes() == self.plain[start : start + count].tobytes()
        found += 1  # a copy

    @invariant()
    def same(self) -> None:
        assert self.store.read(0, COUNT).tobytes() == self.plain.tobytes()
        assert self.store.nbytes == COUNT * 2


TestStores = StoreMachine.TestCase
TestStores.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)


def test_values_are_cast_to_the_type_of_the_store() -> None:
    for store in (HostStore(4, np.float16), device_store(FakeDevice(), 4)):
        store.write(1, np.array([1.0, 2.0**-14], np.float32))
        assert store.read(0, 4).tolist() == [0, 1, 2.0**-14, 0]


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (59, 2), (0, 61), (61, 0)])
def test_places_outside_a_store_of_a_device_are_refused(start: int, count: int) -> None:
    store = device_store(FakeDevice())
    for action in (
        lambda: store.read(start, count),
        lambda: store.write(start, np.zeros(count)),
        lambda: store.move(0, start, count),
        lambda: store.move(start, 0, count),
    ):
        with pytest.raises(ValueError, match="of a store of 60"):
            action()


def test_stores_of_two_kinds_do_not_mix() -> None:
    host, device = HostStore(COUNT, np.float16), device_store(FakeDevice())
    rows = np.arange(2)
    with pytest.raises(ValueError, match="lies on a device"):
        host.take_rows(device.tensor((4, 5)), rows)
    with pytest.raises(TypeError, match="rows that lie there"):
        device.take_rows(host.tensor((4, 5)), rows)


def test_tensor_of_a_device_is_its_beginning() -> None:
    device = FakeDevice()
    store = device_store(device)
    tensor = store.tensor((3, 4))
    assert isinstance(tensor, DeviceArray)
    assert (tensor.shape, tensor.dtype, tensor.nbytes) == ((3, 4), np.float16, 24)
    assert tensor.address in device.memory


def test_memory_is_given_back_with_the_store() -> None:
    device = FakeDevice()
    store = device_store(device)
    assert device.memory
    del store
    assert not device.memory


def test_scratch_grows_and_keeps_one_piece() -> None:
    device = FakeDevice()
    scratch = Scratch(device)
    first = scratch.at_least(10)
    assert scratch.at_least(5) == first
    assert scratch.at_least(20) != first
    assert ([len(piece) for piece in device.memory.values()], scratch.size) == ([20], 20)
