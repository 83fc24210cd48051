"""What ``--precision`` means on which target, and what is refused."""

from __future__ import annotations

import pytest

from stc_calib.schemes import SCHEMES
from stc_engines import find_target, load_targets
from stc_export.exporter.weights import WeightRecipe
from stc_export.pipeline.precisions import check_blocks, read_precisions
from stc_export.spec.errors import StcError, UnsupportedError, UsageError

MEANINGS = [
    ("cpu", None, "fp32"),
    ("cpu", "int4", "fp32, llm int4"),
    ("cpu", "llm=int8", "fp32, llm int8"),
    ("cpu", "int8", "fp32, vit int8, llm int8"),
    ("cpu", "fp16,vit=int8", "fp16, vit int8"),
    ("cpu", "vit=int8,llm=int4", "fp32, vit int8, llm int4"),
    ("cpu", "fp16,llm=int4-128", "fp16, llm int4-128"),
    ("cpu", "int4, vit=fp32", "fp32, llm int4"),
    ("cpu", "int4,llm=fp32", "fp32"),
    ("jetson", "int4", "fp16, llm int4"),
    ("jetson", "bf16,llm=int8", "bf16, llm int8"),
    ("rtx", "llm=int4,vit=fp16", "fp16, llm int4"),
    ("cuda", "int8", "fp16, llm int8"),
    ("jetson", "int8", "fp16, vit int8, llm int8"),
    ("rtx", "bf16,vit=int8", "bf16, vit int8"),
    ("h200", "fp8", "fp16, vit fp8"),
    ("jetson-thor-t5000", "vit=fp8,llm=int4", "fp16, vit fp8, llm int4"),
    ("cpu", "kv=int8", "fp32, kv int8"),
    ("cpu", "int4,kv=int8", "fp32, llm int4, kv int8"),
    ("jetson", "bf16,kv=int8", "bf16, kv int8"),
    ("jetson", "int4,kv=int8,embed=int8", "fp16, llm int4, kv int8, embed int8"),
    ("cpu", "embed=fp32", "fp32"),
    ("cpu", "fp32,kv=fp32", "fp32"),
]


@pytest.mark.parametrize(("target", "asked", "text"), MEANINGS)
def test_meaning(target: str, asked: str | None, text: str) -> None:
    assert read_precisions(asked, find_target(target)).text == text


def test_form_of_the_weights_is_that_of_the_backend() -> None:
    for target in load_targets():
        scheme = read_precisions("int4", target).schemes["llm"]
        assert scheme.form == ("matmul_nbits" if target.backend.kind == "ort" else "dequantize")


FEW = "int4, int4-128, int8."
OF_CPU = f"Known: fp32, fp16, {FEW}"
ONE = "Name one for all graphs"
REFUSED: list[tuple[str, str, type[StcError], str, str]] = [
    (
        "cpu",
        "bf16",
        UnsupportedError,
        'Target cpu has no precision "bf16".',
        OF_CPU,
    ),
    (
        "cpu",
        "llm=fp4",
        UnsupportedError,
        'Target cpu has no precision "fp4".',
        OF_CPU,
    ),
    (
        "b200",
        "fp4",
        UnsupportedError,
        'Precision "fp4" cannot be exported yet.',
        "Known: fp32, fp16, bf16, int4, int4-128, int8, fp8.",
    ),
    ("cpu", "", UnsupportedError, 'Target cpu has no precision "".', OF_CPU),
    (
        "cpu",
        "kv=int4",
        UnsupportedError,
        "Keys and values of an fp32 bundle cannot be int4.",
        "Known: fp32, int8.",
    ),
    (
        "cpu",
        "embed=int4",
        UnsupportedError,
        "The embedding table of an fp32 bundle cannot be int4.",
        "Known: fp32, int8.",
    ),
    (
        "h200",
        "kv=fp8",
        UnsupportedError,
        "Keys and values of an fp16 bundle cannot be fp8.",
        "Known: fp16, int8.",
    ),
    (
        "cpu",
        "lm=int4",
        UnsupportedError,
        '--precision names the graphs "lm".',
        'Did you mean "llm"? Known: ',
    ),
    ("rtx", "pruner=int4", UnsupportedError, "The pruner graphs of rtx cannot be int4.", "Known: fp16."),
    ("cuda", "vit=int8", UnsupportedError, "The vit graphs of cuda cannot be int8.", "Known: fp16."),
    ("h200", "llm=fp8", UnsupportedError, "The llm graphs of h200 cannot be fp8.", f"Known: fp16, {FEW}"),
    (
        "jetson-orin-nano-8gb",
        "vit=fp8",
        UnsupportedError,
        'Target jetson-orin-nano-8gb has no precision "fp8".',
        f"Known: fp32, fp16, bf16, {FEW}",
    ),
    (
        "cpu",
        "vit=fp16",
        UsageError,
        "--precision asks for vit=fp16 in an fp32 bundle: what graphs hand each other has one type.",
        "Name fp16 for all graphs, e.g. fp16,llm=int4.",
    ),
    (
        "cpu",
        "fp16,int4",
        UsageError,
        '--precision is "fp16,int4", which names two for all graphs.',
        ONE,
    ),
    (
        "cpu",
        "llm=int4,llm=int8",
        UsageError,
        '--precision is "llm=int4,llm=int8", which names llm twice.',
        ONE,
    ),
]


@pytest.mark.parametrize(("target", "asked", "kind", "problem", "fix"), REFUSED)
def test_refusals(target: str, asked: str, kind: type[StcError], problem: str, fix: str) -> None:
    with pytest.raises(kind) as caught:
        read_precisions(asked, find_target(target))
    assert caught.value.problem == problem
    assert fix in caught.value.fix


def test_blocks_must_divide_the_layers() -> None:
    schemes = SCHEMES["ort"]["llm"]
    check_blocks([WeightRecipe("w", "float32", (4, 64), ("a",), scheme=schemes["int4"])])
    with pytest.raises(UnsupportedError) as caught:
        check_blocks([WeightRecipe("w", "float32", (4, 64), ("a",), scheme=schemes["int4-128"])])
    assert caught.value.problem == "In int4-128 128 weights share a scale, and w has 64 inputs."
    assert caught.value.fix == "Choose another precision for these graphs."
