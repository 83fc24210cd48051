"""Goldens: what the graphs of a bundle gave on a real picture when it was built, so that any engine can be checked.

``goldens/index.json`` lists the cases, ``goldens/data.bin`` holds the numbers. What a graph gave in the case before is
not stored again when it goes in, zeros are not stored at all, and of a large output only a sample is. Standard library
only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from stc_export.spec import codec
from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import DTYPE_BYTES, DType

INDEX_NAME = "goldens/index.json"
DATA_NAME = "goldens/data.bin"
#: A bundle has some tens of cases with some hundred tensors; anything above this is not ours.
MAX_INDEX_BYTES = 16 * 1024 * 1024
#: Largest tensor that a case may ask for, in elements: a cached layer of the largest ViT has two million.
MAX_ELEMENTS = 1 << 28

#: How an output is compared: as numbers; as a set of indices, in no matter which order; as rows that belong to the
#: indices of the case's ranking, of which those are compared whose index both have; or as numbers in ascending order,
#: where a ranking gave them theirs.
Kind = Literal["numbers", "ranking", "rows", "sorted"]


@dataclass(frozen=True)
class GoldenInput:
    """An input. With neither ``offset_bytes`` nor ``output`` it is zeros.

    Attributes:
        name: Of the graph's input.
        dtype: Its type.
        shape: Its shape.
        offset_bytes: Where its numbers lie in the data.
        output: Output of the graph's case before whose numbers it has.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset_bytes: int | None = None
    output: str | None = None


@dataclass(frozen=True)
class GoldenOutput:
    """A sample of an output: every ``stride``-th element of it taken as a vector, from the first.

    Attributes:
        name: Of the graph's output.
        dtype: Its type.
        shape: Its shape.
        stride: Distance of the elements that are stored.
        offset_bytes: Where they lie in the data.
        scale: Largest absolute value of the whole output.
        tolerance: Largest difference that passes, relative to ``scale``; of a ranking, the share that may differ.
        kind: How it is compared.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    stride: int
    offset_bytes: int
    scale: float
    tolerance: float
    kind: Kind = "numbers"

    @property
    def count(self) -> int:
        """How many elements are stored."""
        return -(-math.prod(self.shape) // self.stride)


@dataclass(frozen=True)
class Golden:
    """A case: one feed of a graph and what came out.

    Attributes:
        graph: Path of the graph.
        case: What is fed, e.g. ``selective 25 %``.
        inputs: All inputs of the graph.
        outputs: All its outputs.
    """

    graph: str
    case: str
    inputs: tuple[GoldenInput, ...]
    outputs: tuple[GoldenOutput, ...]


@dataclass(frozen=True)
class GoldenIndex:
    """All cases of a bundle in the order in which they run.

    Attributes:
        backend: What ran the graphs, e.g. ``ONNX Runtime 1.31.1``.
        cases: The cases; those of a graph follow each other.
        without: Paths of graphs that have none, because the build could run only a sample of their layers.
    """

    backend: str
    cases: tuple[Golden, ...]
    without: tuple[str, ...]


def index_from_text(text: str, source: str, data_bytes: int) -> GoldenIndex:
    """Read and check an index.

    Args:
        text: Content of ``goldens/index.json``.
        source: Names the bundle in errors.
        data_bytes: Size of ``goldens/data.bin``.

    Raises:
        BundleError: It is not an index, or it points outside the data.
    """
    try:
        index = codec.from_json(GoldenIndex, text)
        _check(index, data_bytes)
    except ValueError as error:
        reason = str(error).removesuffix(".")
        raise BundleError(f'The goldens of "{source}" cannot be used: {reason}.', "Build the bundle again.") from error
    return index


def _check(index: GoldenIndex, data_bytes: int) -> None:
    last: Golden | None = None
    for case in index.cases:
        earlier = last if last is not None and last.graph == case.graph else None
        outputs = {row.name: row for row in earlier.outputs} if earlier else {}
        for fed in case.inputs:
            _check_shape(fed.name, fed.shape)
            if fed.offset_bytes is not None:
                _check_place(fed.name, fed.offset_bytes, math.prod(fed.shape) * DTYPE_BYTES[fed.dtype], data_bytes)
            if fed.output is not None and (
                fed.output not in outputs or math.prod(outputs[fed.output].shape) != math.prod(fed.shape)
            ):
                raise ValueError(f"{fed.name} is said to be an output that the case before does not have")
        rankings = [math.prod(row.shape) for row in case.outputs if row.kind == "ranking"]
        for row in case.outputs:
            _check_shape(row.name, row.shape)
            if row.stride < 1 or row.scale < 0 or row.tolerance < 0 or (row.kind != "numbers" and row.stride > 1):
                raise ValueError(f"{row.name} has a stride, scale or tolerance that is not possible")
            if row.kind == "rows" and list(row.shape[:1]) != rankings:
                raise ValueError(f"the rows of {row.name} do not belong to a ranking")
            _check_place(row.name, row.offset_bytes, row.count * DTYPE_BYTES[row.dtype], data_bytes)
        last = case


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{name} has a shape that is not possible")


def _check_place(name: str, offset: int, size: int, data_bytes: int) -> None:
    if offset < 0 or offset + size > data_bytes:
        raise ValueError(f"{name} lies outside the data")
