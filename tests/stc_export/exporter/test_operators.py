"""Operators of newer opsets: the same numbers in PyTorch, in numpy and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stc_export.exporter.graphs import DimRange, GraphDef
from stc_export.exporter.operators import tensor_scatter
from stc_export.exporter.trace import OPSETS, trace
from stc_export.spec.interface import Interface
from stc_export.spec.manifest import TensorSpec


class Scatter(torch.nn.Module):
    def forward(self, cache: torch.Tensor, new: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        return tensor_scatter(cache, new, slot)


def scatter_graph() -> GraphDef:
    spec = TensorSpec("cache", "float32", (1, 2, 20, 3))
    inputs = (spec, TensorSpec("new", "float32", (1, 2, "S", 3)), TensorSpec("slot", "int64", (1,)))
    return GraphDef(
        role="llm",
        variant="x",
        module=Scatter,
        interface=Interface(inputs, (TensorSpec("written", "float32", (1, 2, 20, 3)),)),
        nest=tuple,
        dims={"S": DimRange(1, 20, 7)},
        weight_files=(),
        flavour="modern",
    )


@pytest.mark.parametrize(("slot", "count"), [(0, 20), (3, 1), (17, 3)])
def test_tensor_scatter_writes_the_new_rows_and_nothing_else(tmp_path: Path, slot: int, count: int) -> None:
    trace(scatter_graph(), {}, tmp_path / "x.onnx")
    numbers = np.random.default_rng(0)
    cache = numbers.standard_normal((1, 2, 20, 3)).astype(np.float32)
    new = numbers.standard_normal((1, 2, count, 3)).astype(np.float32)
    expected = np.concatenate([cache[:, :, :slot], new, cache[:, :, slot + count :]], axis=2)
    in_torch = tensor_scatter(*(torch.from_numpy(array.copy()) for array in (cache, new, np.array([slot]))))
    np.testing.assert_array_equal(in_torch.numpy(), expected)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"cache": cache, "new": new, "slot": np.array([slot])})
    np.testing.assert_array_equal(found, expected)


def test_tensor_scatter_is_one_operator(tmp_path: Path) -> None:
    trace(scatter_graph(), {}, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    assert [node.op_type for node in model.graph.node] == ["TensorScatter"]
    assert [entry.version for entry in model.opset_import] == [24] == [OPSETS["modern"]]
