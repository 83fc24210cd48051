"""Layers whose inputs are rounded by scales: ONNX Runtime and NVIDIA's compiler against numpy and the types of ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from stc_calib.schemes import SCHEMES, Scheme
from stc_engines.profiles import InputShapes, Profile
from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.timing import Untimed
from stc_export.exporter.activations import write_activations, write_taps
from stc_export.exporter.checkpoint import read_checkpoint
from stc_export.exporter.graphs import DimRange, GraphDef
from stc_export.exporter.trace import trace
from stc_export.exporter.weights import WeightRecipe, layout, write_weights
from stc_export.families.llava_onevision.blocks import Linear
from stc_export.spec.interface import Interface
from stc_export.spec.manifest import GraphEntry, TensorSpec
from stc_runtime.backends.ort import OrtBackend

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_export.spec.manifest import DType, Flavour

WIDTH, FILE = 64, "w.weights"
NAMES = ("first", "second", "third")
STEPS = {"first.weight": 0.02, "second.weight": 0.05, "third.weight": 0.05}
ALL = list(SCHEMES["trt"]["vit"].values())


class Layers(torch.nn.Module):
    """One layer, and two that share what flows into them: heads side by side again, as behind attention."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.first, self.second, self.third = (Linear(WIDTH, WIDTH, bias=True, dtype=dtype) for _ in NAMES)

    def forward(self, x: Any) -> Any:
        heads = torch.abs(self.first(torch.tanh(x))).unflatten(1, (4, -1)).permute(1, 0, 2) * 0.5
        hidden = heads.permute(1, 0, 2).reshape(-1, WIDTH)
        return (self.second(hidden) - self.third(hidden),)


def write(root: Path, scheme: Scheme, dtype: DType, flavour: Flavour = "base") -> Path:
    """Trace the layers over rounded weights; activations are not rounded yet."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": torch.randn(WIDTH, WIDTH, generator=generator) for name in NAMES}
    biases = {f"{name}.bias": torch.randn(WIDTH, generator=generator) for name in NAMES}
    save_file({**weights, **biases}, root / "model.safetensors")
    (root / "config.json").write_text("{}", encoding="utf-8")
    recipes = (
        *(WeightRecipe(name, dtype, (WIDTH, WIDTH), (name,), scheme=scheme) for name in weights),
        *(WeightRecipe(name, dtype, (WIDTH,), (name,)) for name in biases),
    )
    write_weights(read_checkpoint(root, lambda key: key), recipes, root / FILE, lambda _bytes: None)
    ports = [TensorSpec(name, dtype, ("S", WIDTH)) for name in ("x", "y")]
    graph = GraphDef(
        role="vit",
        variant="default",
        module=lambda: Layers(getattr(torch, dtype)),
        interface=Interface((ports[0],), (ports[1],)),
        nest=tuple,
        dims={"S": DimRange(1, 100, 7)},
        weight_files=(FILE,),
        flavour=flavour,
    )
    trace(graph, {FILE: layout(FILE, recipes)}, root / "x.onnx")
    return root / "x.onnx"


def run(path: Path, x: NDArray[Any]) -> list[NDArray[Any]]:
    """Run operator by operator: joined ones may round the other way what lies in the middle of two steps."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {"x": x})
    return found


def rounded(values: NDArray[Any], scale: Any, scheme: Scheme) -> NDArray[np.float32]:
    """Divide, round to the type and multiply."""
    codes = values / scale
    if scheme.arithmetic == "fp8":
        codes = np.clip(codes, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    else:
        codes = np.clip(np.rint(codes), -128, 127)
    return codes.astype(np.float32) * np.float32(scale)


def layer(x: NDArray[Any], name: str, root: Path, scheme: Scheme) -> NDArray[np.float32]:
    """Round input and weight and multiply, in float32."""
    read = read_checkpoint(root, lambda key: key).read
    weight, bias = read(f"{name}.weight").numpy(), read(f"{name}.bias").numpy()
    most = {"int8": 127, "fp8": 448}[scheme.precision]
    wide = np.stack([rounded(row, np.abs(row).max() / np.float32(most), scheme) for row in weight])
    result: NDArray[np.float32] = rounded(x, np.float32(STEPS[f"{name}.weight"]), scheme) @ wide.T + bias
    return result


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.precision)
def test_input_and_weight_of_every_layer_are_rounded(tmp_path: Path, scheme: Scheme) -> None:
    path = write(tmp_path, scheme, "float32")
    x = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
    assert scheme.arithmetic is not None
    write_activations(path, STEPS, scheme.arithmetic)
    onnx.checker.check_model(str(path))
    hidden = np.abs(layer(np.tanh(x), "first", tmp_path, scheme)) * 0.5
    expected = layer(hidden, "second", tmp_path, scheme) - layer(hidden, "third", tmp_path, scheme)
    assert np.abs(run(path, x)[0] - expected).max() <= 2e-6 * np.abs(expected).max()
    kinds = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    assert [kinds.count(kind) for kind in ("QuantizeLinear", "DequantizeLinear", "Gemm")] == [3, 6, 3]


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.precision)
def test_runtime_takes_nothing_away_around_the_rounding(tmp_path: Path, scheme: Scheme) -> None:
    """It would round before it transposes, and cannot transpose E4M3. A tie of two steps may go either way."""
    path = write(tmp_path, scheme, "float32")
    assert scheme.arithmetic is not None
    write_activations(path, STEPS, scheme.arithmetic)
    x = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
    ports = [TensorSpec(name, "float32", ("S", WIDTH)) for name in ("x", "y")]
    entry = GraphEntry("vit", "default", "x.onnx", (FILE,), (ports[0],), (ports[1],), scheme.precision)
    found, expected = OrtBackend().open(tmp_path, entry).run({"x": x}, {})["y"], run(path, x)[0]
    assert np.abs(found - expected).max() <= 5e-3 * np.abs(expected).max()


def test_taps_show_what_flows_into_which_layers(tmp_path: Path) -> None:
    path = write(tmp_path, ALL[0], "float32")
    first, second = write_taps(path, tmp_path / "taps.onnx")
    assert (first.layers, second.layers) == (("first.weight",), ("second.weight", "third.weight"))
    assert {(tap.port.dtype, tap.port.shape[1]) for tap in (first, second)} == {("float32", WIDTH)}
    x = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
    result, into_first, into_second = run(tmp_path / "taps.onnx", x)
    np.testing.assert_allclose(into_first, np.tanh(x), rtol=0, atol=1e-6)
    assert 0 <= into_second.min() < into_second.max()
    np.testing.assert_array_equal(result, run(path, x)[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("flavour", ["base", "modern"])
@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: scheme.precision)
def test_compiler_of_tensorrt_takes_it(tmp_path: Path, scheme: Scheme, flavour: Flavour, dtype: DType) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    path = write(tmp_path, scheme, dtype, flavour)
    assert scheme.arithmetic is not None
    write_activations(path, STEPS, scheme.arithmetic)
    shapes = InputShapes("x", *((size, WIDTH) for size in (1, 8, 100)))
    recipe = Recipe(str(path), (Profile("default", (shapes,)),), optimization_level=1)
    assert len(build_plan(trt, recipe, lambda *_: None, Untimed())) > 1000
