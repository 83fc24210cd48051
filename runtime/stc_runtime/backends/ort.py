"""Backend ``ort``: ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import BundleError, DeviceError, MissingDependencyError, ResourceError, StcError
from stc_export.spec.manifest import GraphEntry, TensorSpec
from stc_runtime.backends.base import Engine, Tensors, check_arrays
from stc_runtime.backends.store import HostMemory, host_arrays
from stc_runtime.dtypes import carrier

#: What ONNX Runtime calls the types of a manifest.
_ORT_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "bfloat16": "tensor(bfloat16)",
    "int64": "tensor(int64)",
    "uint8": "tensor(uint8)",
    "int8": "tensor(int8)",
}

#: Numbers in ONNX of types that numpy does not have, by what carries them.
_ELEMENTS: Mapping[np.dtype[Any], int] = {carrier("bfloat16"): 16}
#: Things that it is known to say, with what helps.
_KNOWN = {
    "could not find an implementation": "It does not compute every type on every device: run the bundle on the target "
    "that it was built for, or build it with --precision fp32.",
}
#: Settings for graphs of a precision. Rounding stays where it is written: it would be moved past a ``Transpose``, which
#: ONNX Runtime does not have for E4M3.
_SETTINGS: Mapping[str, Mapping[str, str]] = {"fp8": {"session.disable_quant_qdq": "1"}}
#: Options of execution providers. TF32 is on by default, and float32 then has ten bits.
_OPTIONS: Mapping[str, Mapping[str, str]] = {"CUDAExecutionProvider": {"use_tf32": "0"}}
#: ``converted``: when a graph is opened, its weights are copied into the form that is fastest.
#: ``mapped``: they stay in their files, and one after the other is converted when an operator needs it.
Weights = Literal["converted", "mapped"]


def _keep_mapped(ort: Any, options: Any) -> None:
    """Leave out what makes copies: conversion ahead of time, packing, and an arena that holds what it once took."""
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_LAYOUT  # the next one converts
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    # The other order begins with what needs no input: it converts all weights before the first of them is used.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED


_WEIGHTS: Mapping[Weights, Callable[[Any, Any], None]] = {"converted": lambda *_: None, "mapped": _keep_mapped}


class OrtBackend(HostMemory):
    """Opens graphs as ONNX Runtime sessions.

    Args:
        providers: Execution providers in order of preference, e.g. ``("CPUExecutionProvider",)``.
        threads: Threads inside an operator; ``None``: ONNX Runtime's default, one per core.
        weights: Where the weights of an open graph are; ``mapped`` is slow, and large graphs run in little memory.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        DeviceError: This onnxruntime has none of the providers' first choice.
    """

    def __init__(
        self,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        threads: int | None = None,
        weights: Weights = "converted",
    ) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:  # another ImportError is not cured by installing it again
            raise MissingDependencyError(
                "onnxruntime is not installed.", 'Install it: pip install "stc-export[ort]".'
            ) from error
        self._ort = onnxruntime
        self._providers = providers
        self._threads = threads
        self._prepare = _WEIGHTS[weights]
        if providers[0] not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"This onnxruntime has no {providers[0]}.", 'For CUDA install: pip install "stc-export[cuda]".'
            )

    @property
    def title(self) -> str:
        """Name and version, e.g. ``ONNX Runtime 1.31.1``."""
        return f"ONNX Runtime {self._ort.__version__}"

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Open a graph (see :class:`stc_runtime.backends.base.Backend`)."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        # It keeps a plan for each shape that comes, and a second arena beside the first: no faster, and a fifth more
        # memory after the second full frame (SigLIP so400m layers).
        options.enable_mem_pattern = False
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        self._prepare(self._ort, options)
        for key, value in _SETTINGS.get(graph.precision, {}).items():
            options.add_session_config_entry(key, value)
        path = root / graph.file
        providers = [(name, dict(_OPTIONS.get(name, {}))) for name in self._providers]
        try:
            session = self._ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime raises its own untyped family
            raise _explained(error, graph, "open") from error
        _check_interface(graph, graph.inputs, session.get_inputs())
        _check_interface(graph, graph.outputs, session.get_outputs())
        return OrtEngine(session, graph)


class OrtEngine:
    """One ONNX Runtime session with IO binding, so that outputs land in the caller's buffers."""

    def __init__(self, session: Any, graph: GraphEntry) -> None:
        self._session = session
        self._graph = graph

    def run(self, feeds: Tensors, into: Tensors) -> dict[str, NDArray[Any]]:
        """Run once (see :class:`stc_runtime.backends.base.Engine`)."""
        letters = check_arrays(self._graph, feeds, into)  # ONNX Runtime gets bare addresses
        wanted = host_arrays(into)
        direct = {name: array for name, array in wanted.items() if array.flags.c_contiguous}
        fresh = self._own_places(direct, letters)
        places = {**direct, **fresh}
        binding = self._session.io_binding()
        for name, array in host_arrays(feeds).items():
            binding.bind_input(name, "cpu", 0, _element(array), array.shape, array.ctypes.data)
        for spec in self._graph.outputs:
            if spec.name in places:
                place = places[spec.name]
                binding.bind_output(spec.name, "cpu", 0, _element(place), place.shape, place.ctypes.data)
            else:
                binding.bind_output(spec.name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own untyped family
            raise _explained(error, self._graph, "run") from error
        if len(places) < len(self._graph.outputs):
            values = zip((spec.name for spec in self._graph.outputs), binding.get_outputs(), strict=True)
            fresh |= {name: value.numpy() for name, value in values if name not in places}
        for name in fresh.keys() & wanted.keys():
            wanted[name][...] = fresh.pop(name)
        return fresh

    def _own_places(self, direct: Tensors, letters: Mapping[str, int]) -> dict[str, NDArray[Any]]:
        """Make arrays for the other outputs whose sizes are known.

        To take them from ONNX Runtime costs an object and a copy each, which a step of one token feels; and it cannot
        hand over types that numpy lacks.
        """
        return {
            spec.name: np.empty([letters[d] if isinstance(d, str) else d for d in spec.shape], carrier(spec.dtype))
            for spec in self._graph.outputs
            if spec.name not in direct and all(d in letters for d in spec.shape if isinstance(d, str))
        }


def _element(array: NDArray[Any]) -> Any:
    """Return the type of an array as ONNX Runtime takes it: that of numpy, or a number."""
    return _ELEMENTS.get(array.dtype, array.dtype)


def _explained(error: Exception, graph: GraphEntry, action: str) -> StcError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "alloc" in text.lower() or isinstance(error, MemoryError):
        return ResourceError(f'Not enough memory to {action} "{graph.file}".', "Free memory or use a smaller model.")
    check = "Check the bundle: stc-export inspect BUNDLE."
    fix = next((fix for mark, fix in _KNOWN.items() if mark in text.lower()), check)
    return BundleError(f'ONNX Runtime cannot {action} "{graph.file}" ({text}).', fix)


def _check_interface(graph: GraphEntry, declared: tuple[TensorSpec, ...], actual: list[Any]) -> None:
    """Check that a graph has the names, types, ranks and fixed dimensions that its entry in the manifest declares."""
    found = {port.name: port for port in actual}
    for spec in declared:
        port = found.pop(spec.name, None)
        if port is None or port.type != _ORT_TYPES[spec.dtype] or not _fits(spec.shape, port.shape):
            has = f"{port.type} {port.shape}" if port else "nothing"
            raise BundleError(
                f'"{graph.file}" has {has} where the manifest declares {spec.name} {spec.dtype} {list(spec.shape)}.',
                "Build the bundle again.",
            )
    if found:
        raise BundleError(
            f'"{graph.file}" has {", ".join(found)}, which the manifest does not declare.', "Build the bundle again."
        )


def _fits(declared: tuple[int | str, ...], actual: list[int | str | None]) -> bool:
    """A letter may stand for any dimension that the graph leaves open."""
    if len(declared) != len(actual):
        return False
    pairs = zip(declared, actual, strict=True)
    return all(want == have if isinstance(want, int) else not isinstance(have, int) for want, have in pairs)
