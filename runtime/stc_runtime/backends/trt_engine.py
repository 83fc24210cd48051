"""One engine of TensorRT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import BundleError, DeviceError, ResourceError
from stc_export.spec.interface import in_place
from stc_export.spec.manifest import GraphEntry, TensorSpec
from stc_runtime.backends.base import Arrays, Tensors, check_arrays
from stc_runtime.backends.cuda import Rows
from stc_runtime.backends.device_store import Shared
from stc_runtime.backends.replay import Replays
from stc_runtime.backends.staging import Staging
from stc_runtime.backends.store import DeviceArray, Shape, Tensor
from stc_runtime.dtypes import carrier

#: Least and largest shape of each dynamic input.
Profile = Mapping[str, tuple[Shape, Shape]]


@dataclass(frozen=True)
class Binding:
    """Where a tensor of a call lies.

    Attributes:
        name: Its name.
        address: Its place on the device.
        shape: Its shape.
        host: Its pinned place, if the host feeds or reads it: uint8 [bytes].
    """

    name: str
    address: int
    shape: Shape
    host: NDArray[np.uint8] | None = field(compare=False)


@dataclass(frozen=True)
class Call:
    """A run: two that are equal do the same work in the same places.

    Attributes:
        profile: Index of the profile.
        scratch: Address of the scratch memory.
        inputs: Where the inputs lie.
        outputs: Where the outputs lie.
    """

    profile: int
    scratch: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]


class Later(Mapping[str, NDArray[Any]]):
    """Outputs of a run that are waited for when they are first looked at.

    Args:
        fetch: Waits for them and returns them.
    """

    def __init__(self, fetch: Callable[[], dict[str, NDArray[Any]]]) -> None:
        self._fetch = fetch
        self._values: dict[str, NDArray[Any]] | None = None

    def wait(self) -> dict[str, NDArray[Any]]:
        """Return them as they are."""
        if self._values is None:
            self._values = self._fetch()
        return self._values

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return an output."""
        return self.wait()[name]

    def __iter__(self) -> Iterator[str]:
        """Return their names."""
        return iter(self.wait())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.wait())


class TrtEngine:
    """An engine (see :class:`stc_runtime.backends.base.Engine`). Calls from several threads run one by one.

    Each profile has an execution context, and so has each call that became a CUDA graph; all use one scratch memory.
    """

    def __init__(self, trt: Any, engine: Any, graph: GraphEntry, shared: Shared) -> None:
        self._trt, self._engine, self._graph, self._shared = trt, engine, graph, shared
        count = max(1, engine.num_optimization_profiles)  # of a graph without dynamic shapes there may be none
        self._profiles = [_read_profile(engine, graph, index) for index in range(count)]
        self._contexts: dict[int, Any] = {}
        self._over = in_place(graph)  # output -> input in whose place it lies, as TensorRT demands
        self._staging, self._replays = Staging(shared.device), Replays(shared.device)
        self._last = Later(dict)
        with shared.lock:
            shared.device.enter()
            shared.scratch.at_least(engine.device_memory_size_v2)

    def run(self, feeds: Tensors, into: Tensors) -> Arrays:
        """Run once (see :class:`stc_runtime.backends.base.Engine`).

        Raises:
            BundleError: No profile of the engine has room for these shapes.
            DeviceError: TensorRT refuses to run it.
        """
        letters = check_arrays(self._graph, feeds, into)
        with self._shared.lock:
            self._shared.device.enter()
            self._settle()
            call = self._call(feeds, into, letters)
            for binding in call.inputs:
                if binding.host is not None:
                    binding.host[...] = np.asarray(feeds[binding.name]).reshape(-1).view(np.uint8)
            self._replays.run(call, lambda: self._put(self._context(call.profile), call), lambda: self._own(call))
            self._spread(call, into)
            self._last = Later(lambda: self._fetched(call, into))
            if self._shared.awaited or any(isinstance(array, np.ndarray) for array in into.values()):
                self._last.wait()
            return self._last

    def _settle(self) -> None:
        """Finish the call before, whosever it was: the pinned memory of both is the same."""
        self._last.wait()

    def _call(self, feeds: Tensors, into: Tensors, letters: Mapping[str, int]) -> Call:
        inputs = tuple(self._bind(spec, feeds[spec.name].shape, feeds[spec.name]) for spec in self._graph.inputs)
        outputs = tuple(
            self._bind(spec, tuple(letters[d] if isinstance(d, str) else d for d in spec.shape), into.get(spec.name))
            for spec in self._graph.outputs
        )
        scratch = self._shared.scratch.at_least(self._engine.device_memory_size_v2)
        return Call(self._choose(feeds), scratch, inputs, outputs)

    def _bind(self, spec: TensorSpec, shape: Shape, tensor: Tensor | None) -> Binding:
        if isinstance(tensor, DeviceArray) and not tensor.pitch:
            return Binding(spec.name, tensor.address, shape, None)
        size = int(np.prod(shape)) * carrier(spec.dtype).itemsize
        if isinstance(tensor, DeviceArray):
            return Binding(spec.name, self._staging.aside(spec.name, size), shape, None)
        place = self._staging.place(self._over.get(spec.name, spec.name), size)
        return Binding(spec.name, place.address, shape, place.host)

    def _choose(self, feeds: Tensors) -> int:
        """Return the narrowest profile that has room: the one that was tuned for little else."""
        fitting = [
            (_width(profile), index)
            for index, profile in enumerate(self._profiles)
            if all(_fits(feeds[name].shape, *bounds) for name, bounds in profile.items())
        ]
        if fitting:
            return min(fitting)[1]
        shapes = ", ".join(f"{name} {list(feeds[name].shape)}" for name in self._profiles[0])
        raise BundleError(
            f'The engine of "{self._graph.file}" was not built for {shapes}.',
            "Put the policy into the bundle when it is built, and seal it again.",
        )

    def _context(self, profile: int) -> Any:
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile)
        return self._contexts[profile]

    def _own(self, call: Call) -> tuple[Any, Any]:
        context = self._new_context(call.profile)
        return context, lambda: self._put(context, call)

    def _new_context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise ResourceError(
                f'There is no memory to run "{self._graph.file}".', "Close other programs, or use a smaller model."
            )
        if self._engine.num_optimization_profiles:
            chosen = context.set_optimization_profile_async(profile, self._shared.device.stream)
            _require(chosen, self._graph, "lacks a profile")
        return context

    def _put(self, context: Any, call: Call) -> None:
        """Put copies to the device, the engine's work and copies back on the stream."""
        device = self._shared.device
        if self._engine.device_memory_size_v2:
            context.set_device_memory(call.scratch, self._shared.scratch.size)
        for binding in call.inputs:
            _require(context.set_input_shape(binding.name, binding.shape), self._graph, "takes no such shape")
            if binding.host is not None:
                device.upload(binding.address, binding.host)
        for binding in (*call.inputs, *call.outputs):
            _require(context.set_tensor_address(binding.name, binding.address), self._graph, "takes no such address")
        _require(context.execute_async_v3(device.stream), self._graph, "cannot run it")
        for binding in call.outputs:
            if binding.host is not None:
                device.download(binding.host, binding.address)

    def _spread(self, call: Call, into: Tensors) -> None:
        """Put copies of outputs that lie in blocks on the stream: TensorRT writes contiguous arrays only.

        They are not part of a CUDA graph, since their places are others in each call.
        """
        for binding in call.outputs:
            wanted = into.get(binding.name)
            if isinstance(wanted, DeviceArray) and wanted.pitch:
                *outer, rows, width = wanted.shape
                size = rows * width * wanted.dtype.itemsize
                to, source = Rows(wanted.address, wanted.pitch), Rows(binding.address, size)
                self._shared.device.copy_rows(to, source, size, math.prod(outer))

    def _fetched(self, call: Call, into: Tensors) -> dict[str, NDArray[Any]]:
        """Wait, copy what was staged to where it is wanted, and return what nobody gave a place for."""
        with self._shared.lock:
            self._shared.device.enter()
            self._shared.device.wait()
            return self._unstaged(call, into)

    def _unstaged(self, call: Call, into: Tensors) -> dict[str, NDArray[Any]]:
        fresh = {}
        types = {spec.name: carrier(spec.dtype) for spec in self._graph.outputs}
        for binding in call.outputs:
            if binding.host is None:
                continue
            value = binding.host.view(types[binding.name]).reshape(binding.shape)
            wanted = into.get(binding.name)
            if isinstance(wanted, np.ndarray):
                wanted[...] = value
            else:
                fresh[binding.name] = value.copy()
        return fresh


def _require(done: bool, graph: GraphEntry, why: str) -> None:  # noqa: FBT001 - what TensorRT returns
    if not done:
        raise DeviceError(
            f'TensorRT refuses to run "{graph.file}": it {why}.',
            "Please report it with the output of stc-export doctor.",
        )


def _width(profile: Profile) -> int:
    return sum(high - low for least, most in profile.values() for low, high in zip(least, most, strict=True))


def _fits(shape: Shape, least: Shape, most: Shape) -> bool:
    return all(low <= size <= high for size, low, high in zip(shape, least, most, strict=True))


def _read_profile(engine: Any, graph: GraphEntry, index: int) -> Profile:
    dynamic = [spec.name for spec in graph.inputs if any(isinstance(size, str) for size in spec.shape)]
    shapes = {name: engine.get_tensor_profile_shape(name, index) for name in dynamic}
    return {name: (tuple(least), tuple(most)) for name, (least, _usual, most) in shapes.items()}
