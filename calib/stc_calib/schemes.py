"""How the weights of linear layers are rounded to few bits, and how keys and values can be kept, as data.

A scheme is symmetric: a weight is a whole number times a scale, and 0 stays 0. Weights of one output that lie side by
side share a scale. What a precision such as ``int4`` means depends on the backend, which the data of a target name
(:class:`stc_engines.table.Backend`), and on the role of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stc_engines.table import Backend, BackendKind
from stc_export.spec.manifest import Flavour, KVFormat, QuantisedPrecision, Role

#: Operator that reads the weights: one of ONNX Runtime, ONNX's own before a product of floating point numbers, a
#: product of whole numbers, or ONNX's own before a product whose other factor is rounded by a scale as well.
WeightForm = Literal["matmul_nbits", "dequantize", "matmul_integer", "quantize"]
#: What linear layers are computed in, where both weights and activations are rounded.
Arithmetic = Literal["int8", "fp8"]


@dataclass(frozen=True)
class Scheme:
    """How a weight [out, in] is stored.

    Attributes:
        precision: Its name in manifests.
        form: Operator that reads it.
        bits: Bits of a weight: 4 or 8.
        block: Weights that share a scale; ``None``: all of an output.
        opset: Oldest ONNX opset whose operators read it.
        arithmetic: What activations are rounded to; ``None``: they stay floating point numbers.
        calibrated: Whether activations have scales that are chosen from data.
        cpu_only: Whether only a CPU has kernels for it.
    """

    precision: QuantisedPrecision
    form: WeightForm
    bits: int
    block: int | None
    opset: int
    arithmetic: Arithmetic | None = None
    calibrated: bool = False
    cpu_only: bool = False

    def blocks(self, inputs: int) -> int:
        """Return the scales per output of a layer with so many inputs, which :meth:`fits`."""
        return 1 if self.block is None else inputs // self.block

    def fits(self, inputs: int) -> bool:
        """Whether blocks divide a layer with so many inputs."""
        return inputs % (self.block or 1) == 0 and inputs * self.bits % 8 == 0

    def code_bytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of the rounded weights of a layer."""
        return outputs * inputs * self.bits // 8


def _nbits(precision: QuantisedPrecision, bits: int, block: int) -> Scheme:
    return Scheme(precision, "matmul_nbits", bits, block, 18)


_NBITS = (_nbits("int4", 4, 32), _nbits("int4-128", 4, 128), _nbits("int8", 8, 32))
#: ONNX has blocks and int4 from opset 21 on, scales in float16 from 19 on: rows of int8 also serve older compilers.
_DEQUANTIZE = (
    Scheme("int4", "dequantize", 4, 32, 21),
    Scheme("int4-128", "dequantize", 4, 128, 21),
    Scheme("int8", "dequantize", 8, None, 19),
)

#: ONNX Runtime has no such kernel for GPUs, and would copy every activation to the CPU and back.
_INTEGER = (Scheme("int8", "matmul_integer", 8, None, 18, "int8", cpu_only=True),)

#: TensorRT takes scales of activations from the graph, so that they are chosen before, one for each layer's input.
_QUANTIZE = (
    Scheme("int8", "quantize", 8, None, 19, "int8", calibrated=True),
    Scheme("fp8", "quantize", 8, None, 19, "fp8", calibrated=True),
)

Schemes = Mapping[str, Scheme]


def _named(schemes: tuple[Scheme, ...]) -> Schemes:
    return {scheme.precision: scheme for scheme in schemes}


_TENSORRT: Mapping[Role, Schemes] = {"vit": _named(_QUANTIZE), "llm": _named(_DEQUANTIZE)}
#: Backend -> role -> precision -> scheme. A role that is not there has no precision of this kind.
SCHEMES: Mapping[BackendKind, Mapping[Role, Schemes]] = {
    "ort": {"vit": _named(_INTEGER), "llm": _named(_NBITS)},
    "trt": _TENSORRT,
    "trt-rtx": _TENSORRT,
}

#: How the embedding table can be rounded, for every backend: the host reads it. Each row has a scale.
TABLE_SCHEMES: Schemes = _named((Scheme("int8", "dequantize", 8, None, 18),))

_ANY: frozenset[KVFormat] = frozenset({"floats", "int8"})
_FLOATS: frozenset[KVFormat] = frozenset({"floats"})
#: Flavour -> backend -> how its graphs can keep keys and values. The operator with which TensorRT writes into a cache
#: in place takes floating point numbers only.
KV_FORMATS: Mapping[Flavour, Mapping[BackendKind, frozenset[KVFormat]]] = {
    "base": {"ort": _ANY, "trt": _ANY, "trt-rtx": _ANY},
    "modern": {"ort": _ANY, "trt": _FLOATS, "trt-rtx": _FLOATS},
}


def schemes_of(backend: Backend) -> Mapping[Role, Schemes]:
    """Return what a backend has kernels for: role -> precision -> scheme."""
    return {
        role: {name: scheme for name, scheme in schemes.items() if backend.on_cpu or not scheme.cpu_only}
        for role, schemes in SCHEMES[backend.kind].items()
    }
