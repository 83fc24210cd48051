"""Backends ``trt`` and ``trt-rtx``: engines that ``seal`` built, run by TensorRT.

Arrays come from and go to host memory in each call, so that the session need not know where an engine runs. Buffers on
the device are kept and grow to the largest call; there is one execution context per optimisation profile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.engines import RECORD_NAME, plan_name, read_record
from stc_export.spec.errors import BundleError, DeviceError, ResourceError
from stc_export.spec.files import file_digest
from stc_export.spec.interface import in_place
from stc_export.spec.manifest import GraphEntry
from stc_runtime.backends.base import Arrays, Engine, check_arrays
from stc_runtime.backends.cuda import Device

#: What TensorRT calls the types of a manifest.
_TYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "uint8": "UINT8"}

Shape = tuple[int, ...]
#: Least and largest shape of each dynamic input.
Profile = Mapping[str, tuple[Shape, Shape]]


class TrtBackend:
    """Opens the engines of a folder.

    Args:
        trt: The module ``tensorrt`` or ``tensorrt_rtx``.
        log: A logger of that module, whose ``errors`` are the messages of errors so far.
        device: The GPU.
        folder: Where the engines are (see :mod:`stc_export.spec.engines`).
    """

    def __init__(self, trt: Any, log: Any, device: Device, folder: Path) -> None:
        self._log, self._device, self._folder = log, device, folder
        device.enter()
        self._runtime = trt.Runtime(log)

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Load the engine of a graph (see :class:`stc_runtime.backends.base.Backend`)."""
        if not (root / graph.file).is_file():
            raise BundleError(f'"{graph.file}" is missing from "{root}".', "Copy or build the bundle again.")
        path = self._folder / plan_name(graph)
        self._check_digest(path, graph)
        self._device.enter()
        self._log.errors.clear()
        try:
            engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        except FileNotFoundError as error:
            raise BundleError(f'"{path}" is missing.', f"Run stc-export seal {root} again.") from error
        if engine is None:  # never passed on: using it would end the process
            raise BundleError(
                f'TensorRT cannot load "{path}" ({_reason(self._log.errors)}).',
                f"Run stc-export seal {root} --overwrite.",
            )
        _check_interface(engine, graph, path)
        return TrtEngine(engine, graph, self._device)

    def _check_digest(self, path: Path, graph: GraphEntry) -> None:
        """Compare a plan with its record; while engines are being sealed there is none yet."""
        if not (self._folder / RECORD_NAME).is_file():
            return
        wanted = {entry.graph: entry.sha256 for entry in read_record(self._folder).engines}
        if graph.file not in wanted or (path.is_file() and file_digest(path) != wanted[graph.file]):
            raise BundleError(f'"{path}" was altered.', "Run stc-export seal --overwrite.")


class TrtEngine:
    """An engine with a context per profile and buffers on the device. Calls from several threads run one by one."""

    def __init__(self, engine: Any, graph: GraphEntry, device: Device) -> None:
        self._engine, self._graph, self._device = engine, graph, device
        self._over = in_place(graph)  # output -> input in whose buffer it lies, as TensorRT demands
        count = max(1, engine.num_optimization_profiles)  # of a graph without dynamic shapes there may be none
        self._profiles = [_read_profile(engine, graph, index) for index in range(count)]
        self._contexts: dict[int, Any] = {}
        self._buffers: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, NDArray[Any]]:
        """Run once (see :class:`stc_runtime.backends.base.Engine`).

        Raises:
            BundleError: No profile of the engine has room for these shapes.
            DeviceError: TensorRT refuses to run it.
        """
        check_arrays(self._graph, feeds, into)
        with self._lock:
            self._device.enter()
            context = self._context(self._choose(feeds))
            for spec in self._graph.inputs:
                array = feeds[spec.name]
                address = self._buffer(spec.name, array.nbytes)
                self._device.upload(address, array)
                _require(context.set_input_shape(spec.name, array.shape), self._graph, "takes no such shape")
                _require(context.set_tensor_address(spec.name, address), self._graph, "takes no such address")
            outputs = {spec.name: self._output(context, spec.name, spec.dtype, into) for spec in self._graph.outputs}
            _require(context.execute_async_v3(self._device.stream), self._graph, "cannot run it")
            for name, array in outputs.items():
                self._device.download(array, self._buffers[self._over.get(name, name)][0])
            self._device.wait()
        return {name: array for name, array in outputs.items() if name not in into}

    def _choose(self, feeds: Arrays) -> int:
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
            context = self._engine.create_execution_context()
            if context is None:
                raise ResourceError(
                    f'There is no memory to run "{self._graph.file}".', "Close other programs, or use a smaller model."
                )
            if self._engine.num_optimization_profiles:
                chosen = context.set_optimization_profile_async(profile, self._device.stream)
                _require(chosen, self._graph, "lacks a profile")
            self._contexts[profile] = context
        return self._contexts[profile]

    def _output(self, context: Any, name: str, dtype: str, into: Arrays) -> NDArray[Any]:
        shape = tuple(context.get_tensor_shape(name))
        array = into[name] if name in into else np.empty(shape, dtype)
        if array.shape != shape:
            raise ValueError(f"{self._graph.file}: {name} has the shape {shape}, not {array.shape}")
        address = self._buffer(self._over.get(name, name), array.nbytes)
        _require(context.set_tensor_address(name, address), self._graph, "takes no such address")
        return array

    def _buffer(self, name: str, size: int) -> int:
        """Return the address of the tensor's buffer, which is replaced by a larger one where it is too small."""
        address, room = self._buffers.get(name, (0, 0))
        if not address or size > room:
            if address:
                self._device.wait()
                self._device.free(address)
                del self._buffers[name]
            address = self._device.allocate(max(size, 1))  # even nothing must lie somewhere
            self._buffers[name] = (address, size)
        return address


def _reason(errors: list[str]) -> str:
    return errors[-1].rstrip(".") if errors else "it gives no reason"


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


def _check_interface(engine: Any, graph: GraphEntry, path: Path) -> None:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: str(engine.get_tensor_dtype(name)).rpartition(".")[2] for name in names}
    declared = {spec.name: _TYPES[spec.dtype] for spec in (*graph.inputs, *graph.outputs)}
    if found != declared:
        odd = sorted(name for name in found.keys() | declared.keys() if found.get(name) != declared.get(name))
        raise BundleError(
            f'"{path}" has another {odd[0]} than the manifest declares.', "Run stc-export seal --overwrite."
        )
