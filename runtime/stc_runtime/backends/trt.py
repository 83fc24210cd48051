"""Backends ``trt`` and ``trt-rtx``: engines that ``seal`` built, run by TensorRT.

The state of a stream lies in stores on the device, and engines read and write it there. What the host feeds or reads
goes through pinned memory.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike

from stc_export.spec.engines import RECORD_NAME, plan_name, read_record
from stc_export.spec.errors import BundleError
from stc_export.spec.files import file_digest
from stc_export.spec.manifest import GraphEntry
from stc_runtime.backends.base import Engine
from stc_runtime.backends.cuda import Device
from stc_runtime.backends.device_store import DeviceStore, Scratch, Shared
from stc_runtime.backends.trt_engine import TrtEngine

#: What TensorRT calls the types of a manifest.
_TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "uint8": "UINT8",
    "int8": "INT8",
}


class TrtBackend:
    """Opens the engines of a folder.

    Args:
        trt: The module ``tensorrt`` or ``tensorrt_rtx``.
        log: A logger of that module, whose ``errors`` are the messages of errors so far.
        device: The GPU.
        folder: Where the engines are (see :mod:`stc_export.spec.engines`).
        shared: What its engines and stores have in common; by default a stream and memory of their own.
    """

    #: An output could be written before all of the input that it updates was read.
    in_place = False

    def __init__(self, trt: Any, log: Any, device: Device, folder: Path, shared: Shared | None = None) -> None:
        self._trt, self._log, self._device, self._folder = trt, log, device, folder
        self._shared = shared or Shared(device, Scratch(device), threading.RLock())
        self._llm = self
        device.enter()
        self._runtime = trt.Runtime(log)

    @classmethod
    def on_two_streams(cls, trt: Any, log: Any, device: Device, folder: Path) -> TrtBackend:
        """Return one whose LLM has a stream and scratch memory of its own, so that it works beside the encoder.

        The two share nothing on the device: visual tokens and their indices come to the host, which needs them, and go
        to the LLM from there. So neither stream has to wait for the other.
        """
        backend = cls(trt, log, device, folder)
        beside = backend._shared.beside()
        backend._llm = cls(trt, log, beside.device, folder, beside)
        return backend

    @property
    def llm(self) -> TrtBackend:
        """See :class:`stc_runtime.backends.base.Backend`."""
        return self._llm

    def store(self, count: int, dtype: DTypeLike) -> DeviceStore:
        """Reserve a store on the device (see :class:`stc_runtime.backends.base.Backend`)."""
        return DeviceStore(self._shared, count, dtype)

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
        return TrtEngine(self._trt, engine, graph, self._shared)

    def _check_digest(self, path: Path, graph: GraphEntry) -> None:
        """Compare a plan with its record; while engines are being sealed there is none yet."""
        if not (self._folder / RECORD_NAME).is_file():
            return
        wanted = {entry.graph: entry.sha256 for entry in read_record(self._folder).engines}
        if graph.file not in wanted or (path.is_file() and file_digest(path) != wanted[graph.file]):
            raise BundleError(f'"{path}" was altered.', "Run stc-export seal --overwrite.")


def _reason(errors: list[str]) -> str:
    return errors[-1].rstrip(".") if errors else "it gives no reason"


def _check_interface(engine: Any, graph: GraphEntry, path: Path) -> None:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: str(engine.get_tensor_dtype(name)).rpartition(".")[2] for name in names}
    declared = {spec.name: _TYPES[spec.dtype] for spec in (*graph.inputs, *graph.outputs)}
    if found != declared:
        odd = sorted(name for name in found.keys() | declared.keys() if found.get(name) != declared.get(name))
        raise BundleError(
            f'"{path}" has another {odd[0]} than the manifest declares.', "Run stc-export seal --overwrite."
        )
