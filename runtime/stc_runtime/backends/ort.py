"""Backend ``ort``: ONNX Runtime on CPU or CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stc_export.spec.errors import BundleError, DeviceError, MissingDependencyError, ResourceError
from stc_export.spec.manifest import GraphEntry, TensorSpec
from stc_runtime.backends.base import Arrays, Engine


class OrtBackend:
    """Opens graphs as ONNX Runtime sessions.

    Args:
        providers: Execution providers in order of preference, e.g. ``("CPUExecutionProvider",)``.
        threads: Threads inside an operator; ``None``: ONNX Runtime's default, one per core.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        DeviceError: This onnxruntime has none of the providers' first choice.
    """

    def __init__(self, providers: tuple[str, ...] = ("CPUExecutionProvider",), threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(
                "onnxruntime is not installed.", 'Install it: pip install "stc-export[ort]".'
            ) from error
        self._ort = onnxruntime
        self._providers = providers
        self._threads = threads
        if providers[0] not in onnxruntime.get_available_providers():
            raise DeviceError(
                f"This onnxruntime has no {providers[0]}.", 'For CUDA install: pip install "stc-export[cuda]".'
            )

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        """Open a graph (see :class:`stc_runtime.backends.base.Backend`)."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        path = root / graph.file
        try:
            session = self._ort.InferenceSession(str(path), options, providers=list(self._providers))
        except Exception as error:  # onnxruntime raises its own untyped family
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            if "allocate" in text.lower() or isinstance(error, MemoryError):
                raise ResourceError(
                    f'Not enough memory to open "{graph.file}".', "Free memory or use a smaller model."
                ) from error
            raise BundleError(
                f'ONNX Runtime cannot open "{graph.file}" ({text}).', "Check the bundle: stc-export inspect BUNDLE."
            ) from error
        return OrtEngine(session, graph)


class OrtEngine:
    """One ONNX Runtime session with IO binding, so that outputs land in the caller's buffers."""

    def __init__(self, session: Any, graph: GraphEntry) -> None:
        self._session = session
        self._graph = graph
        self._inputs = {spec.name: spec for spec in graph.inputs}

    def run(self, feeds: Arrays, into: Arrays) -> dict[str, NDArray[Any]]:
        """Run once (see :class:`stc_runtime.backends.base.Engine`)."""
        binding = self._session.io_binding()
        for name, spec in self._inputs.items():
            array = check_feed(self._graph, spec, feeds)
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        fresh: list[str] = []
        for spec in self._graph.outputs:
            target = into.get(spec.name)
            if target is None:
                binding.bind_output(spec.name, "cpu")
                fresh.append(spec.name)
            else:
                binding.bind_output(spec.name, "cpu", 0, target.dtype, target.shape, target.ctypes.data)
        self._session.run_with_iobinding(binding)
        if not fresh:
            return {}
        values = binding.get_outputs()
        names = [spec.name for spec in self._graph.outputs]
        return {name: values[names.index(name)].numpy() for name in fresh}


def check_feed(graph: GraphEntry, spec: TensorSpec, feeds: Arrays) -> NDArray[Any]:
    """Return the array for an input.

    Raises:
        ValueError: A missing input, a wrong type, rank or fixed dimension, or an array that is not contiguous. This is
            a defect of the caller, not of a user's input.
    """
    array = feeds.get(spec.name)
    if array is None:
        raise ValueError(f"{graph.file}: the input {spec.name} is missing")
    fixed = len(array.shape) == len(spec.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(spec.dtype) or not fixed or not array.flags.c_contiguous:
        raise ValueError(
            f"{graph.file}: {spec.name} is {array.dtype} {array.shape}, declared {spec.dtype} {spec.shape} contiguous"
        )
    return array
