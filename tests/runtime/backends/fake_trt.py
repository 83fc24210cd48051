"""A GPU and a TensorRT that are none: device memory is host memory, and plans run in ONNX Runtime.

They keep the rules that the real ones punish with a crash: an address must have been given out, a shape must lie in
the chosen profile, and nothing runs before every tensor has both.
"""

from __future__ import annotations

import copy
import enum
import json
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_engines.profiles import InputShapes, Profile, profiles_of
from stc_engines.trt.log import make_log
from stc_export.spec.engines import plan_name
from stc_export.spec.errors import DeviceError, ResourceError
from stc_export.spec.interface import in_place
from stc_export.spec.manifest import GraphEntry, Manifest, read_manifest
from stc_runtime.backends.base import Engine
from stc_runtime.backends.cuda import Rows
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.trt import TrtBackend
from stc_runtime.bundle import Bundle
from stc_runtime.dtypes import carrier

Schedule = Callable[[list["FakeDevice"]], None]
Profiles = Callable[[GraphEntry, Manifest], tuple[Profile, ...]]

_TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int64": "INT64", "uint8": "UINT8"}


class FakeDevice:
    """Memory with addresses, and one stream or more: rows of steps, each done in order.

    Nothing but ``wait`` makes a step happen at a certain time: one that should have been waited for may come late.

    Args:
        most: Bytes that there are.
        schedule: Called with all streams whenever something was put on one or is waited for; does steps of any of them.
    """

    def __init__(self, most: int = 1 << 30, schedule: Schedule | None = None) -> None:
        self.memory: dict[int, bytearray] = {}
        self.host: dict[int, NDArray[np.uint8]] = {}
        self._addresses, self._most = [4096], most
        self._schedule = schedule or at_once
        self._steps: deque[Callable[[], None]] = deque()
        self.streams: dict[int, FakeDevice] = {77: self}
        self._stream = 77
        self.entered = self.launched = self.up = self.down = 0
        self.capturable = True
        self.graphs: list[list[Callable[[], None]]] = []
        self._captured: list[Callable[[], None]] | None = None

    @property
    def stream(self) -> int:
        return self._stream

    def fork(self) -> FakeDevice:
        other = copy.copy(self)
        other._steps, other._stream = deque(), 77 + len(self.streams)
        self.streams[other.stream] = other
        return other

    def enter(self) -> None:
        self.entered += 1

    def allocate(self, size: int) -> int:
        if sum(map(len, self.memory.values())) + size > self._most:
            raise ResourceError("The GPU has no memory left.", "Close other programs.")
        address = self._addresses[-1]
        self._addresses.append(address + size + 256)
        self.memory[address] = bytearray(b"\xcd" * size)
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def pinned(self, size: int) -> NDArray[np.uint8]:
        memory = np.full(size, 0xCD, np.uint8)
        self.host[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        del self.host[memory.ctypes.data]

    def upload(self, address: int, array: NDArray[Any]) -> None:
        # Of memory that is not pinned the driver takes a copy at once; of pinned memory it reads when its turn comes.
        data = array if array.ctypes.data in self.host else array.copy()

        def write() -> None:
            self.up += data.nbytes
            self._store(address, data.tobytes())

        self.put(write)

    def download(self, array: NDArray[Any], address: int) -> None:
        def read() -> None:
            self.down += array.nbytes
            array[...] = np.frombuffer(self.at(address, array.nbytes), array.dtype).reshape(array.shape)

        self.put(read)

    def copy(self, to: int, source: int, size: int) -> None:
        assert to + size <= source or source + size <= to, "a copy within the device must not overlap"
        self.put(lambda: self._store(to, bytes(self.at(source, size))))

    def copy_rows(self, to: Rows, source: Rows, size: int, count: int) -> None:
        assert min(to.pitch, source.pitch) >= size, "rows overlap"

        def copy() -> None:
            rows = [bytes(self.at(source.address + row * source.pitch, size)) for row in range(count)]
            for row, data in enumerate(rows):
                self._store(to.address + row * to.pitch, data)

        self.put(copy)

    def clear(self, address: int, size: int) -> None:
        self.put(lambda: self._store(address, bytes(size)))

    def capture(self, work: Callable[[], None]) -> int:
        """Take down what is put on the stream instead of doing it."""
        assert self._captured is None
        self._captured = []
        try:
            work()
            if not self.capturable:
                raise DeviceError("The NVIDIA driver refuses cuStreamEndCapture (error 901).", "See nvidia-smi.")
            self.graphs.append(self._captured)
        finally:
            self._captured = None
        return len(self.graphs)

    def launch(self, graph: int) -> None:
        self.launched += 1
        for step in self.graphs[graph - 1]:
            self.put(step)

    def forget(self, graph: int) -> None:
        self.graphs[graph - 1] = []

    def wait(self) -> None:
        assert self._captured is None, "waiting is not allowed while work is captured"
        self._schedule(list(self.streams.values()))
        while self.advance():
            pass

    def put(self, step: Callable[[], None]) -> None:
        """Put a step on the stream, or take it down."""
        if self._captured is None:
            self._steps.append(step)
            self._schedule(list(self.streams.values()))
        else:
            self._captured.append(step)

    def advance(self) -> bool:
        """Do the next step of the stream; return whether there was one."""
        if self._steps:
            self._steps.popleft()()
            return True
        return False

    def at(self, address: int, size: int) -> memoryview:
        """Return memory that must have been given out, from any place in it."""
        start = max((known for known in self.memory if known <= address), default=-1)
        assert start >= 0, f"nothing was given out at {address}"
        assert address + size <= start + len(self.memory[start]), "more than was given out"
        return memoryview(self.memory[start])[address - start : address - start + size]

    def _store(self, address: int, data: bytes) -> None:
        self.at(address, len(data))[:] = data


def at_once(streams: list[FakeDevice]) -> None:
    """Do everything when it is put."""
    for stream in streams:
        while stream.advance():
            pass


def late(_streams: list[FakeDevice]) -> None:
    """Do nothing before it is waited for."""


def first(number: int) -> Schedule:
    """Return what does everything of one stream at once, and of others nothing before it is waited for."""
    return lambda streams: at_once(streams[number : number + 1])


def mixed(seed: int) -> Schedule:
    """Return what does some steps of some streams."""
    draws = random.Random(seed)

    def schedule(streams: list[FakeDevice]) -> None:
        for _ in range(draws.choice((0, 0, 0, 1, 2, 9))):
            draws.choice(streams).advance()

    return schedule


class FakeTensorRt:
    """Stands for the module ``tensorrt``; the classes below have the names of its own."""

    class ILogger:
        """Base of loggers."""

        class Severity(enum.Enum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2

    class ExecutionContextAllocationStrategy(enum.Enum):
        """Who brings the scratch memory of contexts."""

        STATIC = 0
        USER_MANAGED = 2

    def __init__(self, device: FakeDevice, profiles: Profiles = profiles_of) -> None:
        self._device, self._profiles = device, profiles

    def Runtime(self, log: Any) -> Any:  # noqa: N802 - its name
        return Runtime(self._device, log, self._profiles)


class Runtime:
    def __init__(self, device: FakeDevice, log: Any, profiles: Profiles) -> None:
        self._device, self._log, self._profiles = device, log, profiles

    def deserialize_cuda_engine(self, data: bytes) -> ICudaEngine | None:
        try:
            plan = json.loads(data)
        except ValueError:
            self._log.log(FakeTensorRt.ILogger.Severity.WARNING, "a warning")
            self._log.log(FakeTensorRt.ILogger.Severity.ERROR, "magic tag does not match.")
            return None
        manifest = read_manifest(Path(plan["root"]))
        graph = next(graph for graph in manifest.graphs if graph.file == plan["graph"])
        engine = OrtBackend(threads=1).open(Path(plan["root"]), graph)
        return ICudaEngine(graph, self._profiles(graph, manifest), engine, self._device)


class ICudaEngine:
    def __init__(self, graph: GraphEntry, profiles: tuple[Profile, ...], engine: Engine, device: FakeDevice) -> None:
        self.graph, self.profiles, self.engine, self.device = graph, profiles, engine, device
        self.ports = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
        self.contexts: list[IExecutionContext] = []

    @property
    def device_memory_size_v2(self) -> int:
        return 1024

    @property
    def num_io_tensors(self) -> int:
        return len(self.ports)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self.profiles))

    def get_tensor_name(self, index: int) -> str:
        return list(self.ports)[index]

    def get_tensor_dtype(self, name: str) -> str:
        return f"DataType.{_TYPES[self.ports[name].dtype]}"

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        fed = next(fed for fed in self.profiles[index].inputs if fed.name == name)
        return [fed.least, fed.usual, fed.most]

    def create_execution_context(self, strategy: Any) -> IExecutionContext:
        assert strategy is FakeTensorRt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(IExecutionContext(self))
        return self.contexts[-1]


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._profile = engine, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream in self._engine.device.streams
        self._profile = index
        return 0 <= index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        declared = self._engine.ports[name].shape
        if any(isinstance(size, str) for size in declared):
            least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
            if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
                return False
        elif tuple(shape) != declared:
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address in self._engine.device.memory

    def execute_async_v3(self, stream: int) -> bool:
        device = self._engine.device.streams.get(stream)
        if device is None or self._addresses.keys() != self._engine.ports.keys():
            return False
        if self._scratch[1] < self._engine.device_memory_size_v2:
            return False
        for output, fed in in_place(self._engine.graph).items():
            assert self._addresses[output] == self._addresses[fed], "a cache is written where it is read"
        shapes, addresses, scratch = dict(self._shapes), dict(self._addresses), self._scratch
        device.put(lambda: self._compute(shapes, addresses, scratch))
        return True

    def _compute(self, shapes: dict[str, Any], addresses: dict[str, int], scratch: tuple[int, int]) -> None:
        """Clear all outputs before an input is read, as kernels of another order might, and the scratch memory."""
        device, graph = self._engine.device, self._engine.graph
        device.at(*scratch)[:] = bytes(scratch[1])
        letters = {d: n for s in graph.inputs for d, n in zip(s.shape, shapes[s.name], strict=True)}
        for spec in graph.outputs:
            if spec.name in in_place(graph):
                continue
            size = np.prod([letters.get(d, d) for d in spec.shape], dtype=int) * carrier(spec.dtype).itemsize
            device.at(addresses[spec.name], int(size))[:] = b"\xee" * int(size)
        feeds = {}
        for spec in graph.inputs:
            size = int(np.prod(shapes[spec.name])) * carrier(spec.dtype).itemsize
            data = device.at(addresses[spec.name], size)
            feeds[spec.name] = np.frombuffer(data, carrier(spec.dtype)).reshape(shapes[spec.name]).copy()
        for name, value in self._engine.engine.run(feeds, {}).items():
            device.at(addresses[name], value.nbytes)[:] = value.tobytes()


def write_plans(root: Path, manifest: Manifest, folder: Path) -> Path:
    """Write a plan for every graph of a bundle, as sealing would."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in manifest.graphs:
        (folder / plan_name(graph)).write_text(json.dumps({"root": str(root), "graph": graph.file}))
    return folder


def any_shape(graph: GraphEntry, _manifest: Manifest) -> tuple[Profile, ...]:
    """One profile that takes whatever comes."""
    fed = []
    for spec in graph.inputs:
        if any(isinstance(size, str) for size in spec.shape):
            sizes = [[1, 8, 4096] if isinstance(size, str) else [size] * 3 for size in spec.shape]
            fed.append(InputShapes(spec.name, *(tuple(column) for column in zip(*sizes, strict=True))))
    return (Profile("any", tuple(fed)),) if fed else ()


def fake_backend(bundle: Bundle, folder: Path, profiles: Profiles = profiles_of) -> TrtBackend:
    """Return the real backend on a device that is none."""
    device = FakeDevice()
    return make_backend(FakeTensorRt(device, profiles), device, write_plans(bundle.root, bundle.manifest, folder))


def make_backend(trt: Any, device: FakeDevice, folder: Path) -> TrtBackend:
    """Return the backend as it is opened on a device."""
    return TrtBackend(trt, make_log(trt), device, folder)
