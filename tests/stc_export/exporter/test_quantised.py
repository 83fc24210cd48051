"""Linear layers over rounded weights: ONNX Runtime and NVIDIA's compiler against the weights restored in numpy."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from stc_calib.schemes import SCHEMES, Scheme
from stc_engines.profiles import InputShapes, Profile
from stc_engines.trt.builder import Recipe, build_plan
from stc_engines.trt.timing import Untimed
from stc_export.exporter.checkpoint import read_checkpoint
from stc_export.exporter.graphs import DimRange, GraphDef
from stc_export.exporter.trace import trace
from stc_export.exporter.weights import WeightRecipe, file_bytes, layout, write_weights
from stc_export.families.llava_onevision.blocks import Linear
from stc_export.spec.errors import CheckpointError
from stc_export.spec.interface import Interface
from stc_export.spec.manifest import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from stc_export.spec.manifest import DType, Flavour

INPUTS, OUTPUTS, FILE = 256, 48, "w.weights"
#: Those with scales of activations from data are tested in test_activations.py.
SCHEMES_OF = {
    kind: [one for named in SCHEMES[kind].values() for one in named.values() if not one.calibrated]
    for kind in ("ort", "trt")
}
ALL = [scheme for schemes in SCHEMES_OF.values() for scheme in schemes]
#: Sums in another order; in half precision the result is rounded, and the kernel may round the weights it restores.
TOLERANCES = {"float32": 2e-6, "float16": 2e-3}
PRODUCTS = {"Gemm", "MatMul", "MatMulInteger", "MatMulNBits", "DequantizeLinear"}


class Layers(torch.nn.Module):
    """A layer with a bias and one without."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        self.first = Linear(INPUTS, OUTPUTS, bias=True, dtype=dtype)
        self.second = Linear(INPUTS, OUTPUTS, bias=False, dtype=dtype)

    def forward(self, x: Any) -> Any:
        return (self.first(x) + self.second(x),)


def write(tmp_path: Path, scheme: Scheme, dtype: DType, flavour: Flavour = "base") -> Path:
    """Round random weights into a file and trace both layers over them; what it holds is kept in ``model``."""
    values = {f"{name}.weight": torch.randn(OUTPUTS, INPUTS) for name in ("first", "second")}
    save_file({**values, "first.bias": torch.randn(OUTPUTS)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    recipes = (
        *(WeightRecipe(name, dtype, (OUTPUTS, INPUTS), (name,), scheme=scheme) for name in values),
        WeightRecipe("first.bias", dtype, (OUTPUTS,), ("first.bias",)),
    )
    write_weights(read_checkpoint(tmp_path, lambda key: key), recipes, tmp_path / FILE, lambda _bytes: None)
    ports = [TensorSpec(name, dtype, ("S", width)) for name, width in (("x", INPUTS), ("y", OUTPUTS))]
    graph = GraphDef(
        role="llm",
        variant="default",
        module=lambda: Layers(getattr(torch, dtype)),
        interface=Interface((ports[0],), (ports[1],)),
        nest=tuple,
        dims={"S": DimRange(1, 100, 7)},
        weight_files=(FILE,),
        flavour=flavour,
    )
    assert trace(graph, {FILE: layout(FILE, recipes)}, tmp_path / "x.onnx") == (FILE,)
    onnx.checker.check_model(str(tmp_path / "x.onnx"))
    return tmp_path / "x.onnx"


def restored(weight: torch.Tensor, scheme: Scheme, dtype: DType) -> torch.Tensor:
    """Round and restore a weight with torch alone."""
    blocks = weight.unflatten(1, (-1, scheme.block or INPUTS))
    scales = (blocks.abs().amax(-1, keepdim=True) / (2 ** (scheme.bits - 1) - 1)).to(getattr(torch, dtype)).float()
    most = 2 ** (scheme.bits - 1) - 1
    return (torch.clamp(torch.round(blocks / scales), -most, most) * scales).flatten(1)


def given(x: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Round activations as a scheme does, with torch alone."""
    if scheme.arithmetic is None:
        return x.float()
    largest, step = x.float().abs().amax(-1, keepdim=True), torch.tensor(1 / 127)
    return torch.round(x.float() / largest / step) * step * largest


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: f"{scheme.form} {scheme.precision}")
def test_product_is_that_of_the_restored_weights(tmp_path: Path, scheme: Scheme, dtype: DType) -> None:
    import onnxruntime

    path = write(tmp_path, scheme, dtype)
    weights = read_checkpoint(tmp_path, lambda key: key)
    x = torch.randn(9, INPUTS).to(getattr(torch, dtype))
    both = sum(restored(weights.read(f"{name}.weight"), scheme, dtype) for name in ("first", "second"))
    expected = (given(x, scheme) @ both.T + weights.read("first.bias")).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x.numpy()})[0]
    assert np.abs(found - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max()


def test_rounding_of_a_token_does_not_depend_on_the_others(tmp_path: Path) -> None:
    """Otherwise selective passes would differ from full ones. A token of zeros gives what the bias gives."""
    import onnxruntime

    path = write(tmp_path, SCHEMES["ort"]["vit"]["int8"], "float32")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(9, INPUTS)).astype(np.float32) * 10.0 ** np.arange(-4, 5)[:, None]
    x = np.concatenate([x, np.zeros((1, INPUTS))]).astype(np.float32)
    together = session.run(None, {"x": x})[0]
    alone = np.concatenate([session.run(None, {"x": x[i : i + 1]})[0] for i in range(len(x))])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together[-1], read_checkpoint(tmp_path, lambda key: key).read("first.bias").numpy())


@pytest.mark.parametrize("scheme", ALL, ids=lambda scheme: f"{scheme.form} {scheme.precision}")
def test_graph_holds_codes_and_no_floating_point_copy(tmp_path: Path, scheme: Scheme) -> None:
    model = onnx.load(write(tmp_path, scheme, "float16"), load_external_data=False)
    kinds = [node.op_type for node in model.graph.node if node.op_type in PRODUCTS]
    wanted = {
        "matmul_nbits": ["MatMulNBits"] * 2,
        "dequantize": ["DequantizeLinear", "Gemm"] * 2,
        "matmul_integer": ["MatMulInteger"] * 2,
    }
    assert sorted(kinds) == sorted(wanted[scheme.form])
    assert {entry.domain for entry in model.opset_import} == {"", *({node.domain for node in model.graph.node} - {""})}
    assert next(entry.version for entry in model.opset_import if not entry.domain) == max(18, scheme.opset)
    lengths = {
        tensor.name: int(next(item.value for item in tensor.external_data if item.key == "length"))
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    codes, scales = OUTPUTS * INPUTS * scheme.bits // 8, OUTPUTS * (INPUTS // (scheme.block or INPUTS)) * 2
    assert lengths == {
        **{f"{name}.weight": codes for name in ("first", "second")},
        **{f"{name}.weight.scale": scales for name in ("first", "second")},
        "first.bias": OUTPUTS * 2,
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("flavour", ["base", "modern"])
@pytest.mark.parametrize("scheme", SCHEMES_OF["trt"], ids=lambda scheme: scheme.precision)
def test_compiler_of_tensorrt_takes_it(tmp_path: Path, scheme: Scheme, flavour: Flavour, dtype: DType) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    path = write(tmp_path, scheme, dtype, flavour)
    shapes = InputShapes("x", *((size, INPUTS) for size in (1, 8, 100)))
    recipe = Recipe(str(path), (Profile("default", (shapes,)),), optimization_level=1)
    assert len(build_plan(trt, recipe, lambda *_: None, Untimed())) > 1000


def test_part_of_a_rounded_weight_is_its_rows_and_their_scales(tmp_path: Path) -> None:
    """Rows 16 to 47 of [48, 256] with 8 scales each: 128 bytes of codes and 32 of scales a row."""
    scheme = SCHEMES["ort"]["llm"]["int4"]
    recipe = WeightRecipe("w", "float32", (48, 256), ("a",), scheme=scheme, parts={"part": (16, 32)})
    whole, part = layout(FILE, (recipe,))["w"], layout(FILE, (recipe,))["part"]
    assert (whole.length, whole.nbytes) == (48 * 128, 48 * 160)
    assert (part.offset, part.length, part.shape) == (16 * 128, 32 * 128, (32, 256))
    assert whole.scales is not None
    assert part.scales == replace(whole.scales, offset=8192 + 16 * 32, length=32 * 32, shape=(32, 8))


def test_error_and_digest_are_those_of_the_original_values(tmp_path: Path) -> None:
    """A weight that is all 7 is restored; one of 7 and 0.4 loses the 0.4: 0.4 / sqrt(7^2 + 0.4^2) of its norm."""
    exact, lossy = torch.full((2, 32), 7.0), torch.zeros(2, 32)
    lossy[1, :2] = torch.tensor([7.0, 0.4])
    save_file({"a": exact, "b": lossy}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    scheme = SCHEMES["ort"]["llm"]["int4"]
    recipes = (
        WeightRecipe("plain", "float32", (2, 32), ("a",)),
        WeightRecipe("exact", "float32", (2, 32), ("a",), scheme=scheme),
        WeightRecipe("lossy", "float32", (2, 32), ("b",), scheme=scheme),
    )
    checkpoint = read_checkpoint(tmp_path, lambda key: key)
    written = write_weights(checkpoint, recipes, tmp_path / FILE, lambda _bytes: None)
    errors = {error.name: error.relative_error for error in written.errors}
    assert errors == {"exact": 0.0, "lossy": pytest.approx(0.4 / np.hypot(7, 0.4), rel=1e-6)}
    digests = (hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in (exact, lossy))
    assert written.rounded_sha256 == hashlib.sha256("".join(f"{one}\n" for one in digests).encode()).hexdigest()
    assert written.size_bytes == file_bytes(recipes) == 5 * 4096


@pytest.mark.parametrize(("value", "detail"), [(float("nan"), "holds NaN or infinity"), (1e6, "overflows")])
def test_weight_without_a_finite_scale_is_refused(tmp_path: Path, value: float, detail: str) -> None:
    save_file({"a": torch.full((2, 32), value)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    recipe = WeightRecipe("w", "float16", (2, 32), ("a",), scheme=SCHEMES["ort"]["llm"]["int4"])
    with pytest.raises(CheckpointError, match=f'"a" {detail} as float16'):
        write_weights(read_checkpoint(tmp_path, lambda key: key), (recipe,), tmp_path / FILE, lambda _bytes: None)
