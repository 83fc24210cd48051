"""Write linear layers over rounded weights into a traced graph, in the form that the backend of the target takes.

The exporter traces a layer as one ``Gemm`` with ``transB`` over weights [out, in]. Here its weight becomes the codes
and scales of the bundle, and its product

- ``matmul_nbits``: one ``MatMulNBits`` of ONNX Runtime (domain ``com.microsoft``), or
- ``dequantize``: a ``DequantizeLinear`` before the ``Gemm``, operators of ONNX that compilers of TensorRT know, or
- ``matmul_integer``: a ``MatMulInteger`` over activations that are rounded as they come
  (:mod:`stc_export.exporter.integer`), or
- ``quantize``: like ``dequantize``; what flows in is rounded too once there are scales
  (:mod:`stc_export.exporter.activations`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from stc_calib.schemes import Scheme, WeightForm
from stc_export.exporter.integer import write_integer
from stc_export.exporter.weights import StoredTensor
from stc_export.spec.manifest import QuantisedPrecision

_RUNTIME_DOMAIN = "com.microsoft"
#: int4 came with this version of the file format.
_IR_VERSION = 10
#: Type of codes.
_CODES: Mapping[QuantisedPrecision, ir.DataType] = {
    "int4": ir.DataType.INT4,
    "int4-128": ir.DataType.INT4,
    "int8": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
}


@dataclass(frozen=True, eq=False)
class Weight:
    """A rounded weight in a graph.

    Attributes:
        codes: Codes.
        scales: Scales [out, blocks], or [out] where a row has one.
        shape: Its own shape [out, in].
        scheme: How it is rounded.
    """

    codes: ir.Value
    scales: ir.Value
    shape: tuple[int, ...]
    scheme: Scheme


def write_rounded(model: ir.Model, weight: ir.Value, place: StoredTensor) -> None:
    """Replace a weight and every ``Gemm`` over it.

    Args:
        model: Traced graph; its opset rises to what the operators need.
        weight: Its initializer [out, in] in the floating point type of the graph.
        place: Where codes and scales lie.
    """
    scheme = place.scheme
    if scheme is None or place.scales is None:
        raise ValueError(f"{weight.name} is not rounded")
    readers = list(weight.uses())
    del model.graph.initializers[str(weight.name)]
    rounded = Weight(
        codes=_CODE_VALUES[scheme.form](str(weight.name), place, scheme),
        scales=_scales(f"{weight.name}.scale", place.scales, weight.dtype or ir.DataType.FLOAT, scheme),
        shape=place.shape,
        scheme=scheme,
    )
    model.graph.register_initializer(rounded.codes)
    model.graph.register_initializer(rounded.scales)
    for node, _ in readers:
        _WRITERS[scheme.form](model, node, rounded)
    model.opset_imports[""] = max(model.opset_imports[""], scheme.opset)
    model.ir_version = max(model.ir_version, _IR_VERSION)


def _stored(name: str, place: StoredTensor, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    tensor = ir.ExternalTensor(place.file, place.offset, place.length, dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)


def _scales(name: str, place: StoredTensor, dtype: ir.DataType, scheme: Scheme) -> ir.Value:
    return _stored(name, place, dtype, place.shape[:1] if scheme.block is None else place.shape)


def _blob_codes(name: str, place: StoredTensor, scheme: Scheme) -> ir.Value:
    """Codes as bytes [out, blocks, bytes of a block]."""
    outputs, blocks = place.shape[0], scheme.blocks(place.shape[1])
    return _stored(name, place, ir.DataType.UINT8, (outputs, blocks, place.length // (outputs * blocks)))


def _typed_codes(name: str, place: StoredTensor, scheme: Scheme) -> ir.Value:
    """Codes as numbers [out, in]."""
    return _stored(name, place, _CODES[scheme.precision], place.shape)


_CODE_VALUES: Mapping[WeightForm, Callable[[str, StoredTensor, Scheme], ir.Value]] = {
    "matmul_nbits": _blob_codes,
    "dequantize": _typed_codes,
    "matmul_integer": _typed_codes,
    "quantize": _typed_codes,
}


def _write_nbits(model: ir.Model, gemm: ir.Node, weight: Weight) -> None:
    """Replace a ``Gemm``. Inputs 3 and 4 (zero points, order of the columns) are not there: symmetric, in order."""
    outputs, inputs = weight.shape
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    fed = [gemm.inputs[0], weight.codes, weight.scales, *((None, None, bias) if bias is not None else ())]
    sizes = {"K": inputs, "N": outputs, "bits": weight.scheme.bits}
    blocks = {"block_size": inputs // weight.scheme.blocks(inputs)}
    node = ir.node("MatMulNBits", fed, {**sizes, **blocks}, domain=_RUNTIME_DOMAIN, name=gemm.name)
    node.metadata_props.update(gemm.metadata_props)
    old, new = gemm.outputs[0], node.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(model.graph, gemm, [gemm], [node], [old], [new])
    model.opset_imports[_RUNTIME_DOMAIN] = 1


def _write_dequantize(model: ir.Model, gemm: ir.Node, weight: Weight) -> None:
    """Put an operator before a ``Gemm`` that gives its weight in floating point numbers."""
    block = weight.scheme.block
    where = {"axis": 0} if block is None else {"axis": 1, "block_size": block}
    node = ir.node("DequantizeLinear", [weight.codes, weight.scales], where, name=f"{weight.codes.name}/dequantize")
    wide = node.outputs[0]
    wide.name, wide.type, wide.shape = f"{weight.codes.name}/wide", weight.scales.type, ir.Shape(weight.shape)
    model.graph.insert_before(gemm, node)
    gemm.replace_input_with(1, wide)


_WRITERS: Mapping[WeightForm, Callable[[ir.Model, ir.Node, Weight], None]] = {
    "matmul_nbits": _write_nbits,
    "dequantize": _write_dequantize,
    "quantize": _write_dequantize,
    "matmul_integer": lambda model, gemm, weight: write_integer(model, gemm, weight.codes, weight.scales),
}
