"""Stream weights from a checkpoint into the bundle: one block of rows in memory at a time, every weight written once.

A :class:`WeightRecipe` says how a tensor of a graph is made from tensors of the checkpoint. A :class:`WeightFile` is
the result: ONNX external data with page-aligned tensors, so that runtimes can map it. Linear weights keep the
checkpoint's [out, in] layout (the graphs use ``Gemm`` with ``transB``), therefore fusing q, k and v means writing their
rows one after the other, and a graph that needs only a part refers to the same bytes with another offset and length.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stc_export import __version__
from stc_export.exporter import journal
from stc_export.spec.errors import CheckpointError
from stc_export.spec.manifest import DTYPE_BYTES, DType
from stc_runtime.dtypes import carrier, narrowed

if TYPE_CHECKING:
    from stc_export.exporter.checkpoint import Checkpoint

#: Memory pages; ONNX Runtime maps external data whose offset is a multiple of the allocation granularity.
ALIGNMENT = 4096
#: Rows are converted in blocks of about this size (as float32).
_BLOCK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class WeightRecipe:
    """How one stored tensor is made.

    Attributes:
        name: Name in the weight file; graphs refer to it.
        dtype: Stored type.
        shape: Stored shape; dimension 0 is the concatenation of the sources.
        sources: Canonical names of checkpoint tensors, concatenated along dimension 0.
        values: Values that do not come from the checkpoint (position-free constants); then ``sources`` is empty.
        permute: Order of the axes applied to a single source before it is stored, e.g. OIHW to OHWI.
        parts: Names for row ranges of this tensor: name -> (first row, rows).
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    values: NDArray[np.float32] | None = None
    permute: tuple[int, ...] = ()
    parts: Mapping[str, tuple[int, int]] | None = None

    @property
    def nbytes(self) -> int:
        """Stored bytes without padding."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a weight file."""

    file: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True)
class WrittenFile:
    """A finished weight file with its digest."""

    path: Path
    size_bytes: int
    sha256: str


def layout(file: str, recipes: tuple[WeightRecipe, ...]) -> Mapping[str, StoredTensor]:
    """Return where every tensor and every named part will lie, before anything is read."""
    placed: dict[str, StoredTensor] = {}
    offset = 0
    for recipe in recipes:
        placed[recipe.name] = StoredTensor(file, recipe.dtype, recipe.shape, offset, recipe.nbytes)
        row = recipe.nbytes // recipe.shape[0]
        for part, (first, rows) in (recipe.parts or {}).items():
            shape = (rows, *recipe.shape[1:])
            placed[part] = StoredTensor(file, recipe.dtype, shape, offset + first * row, rows * row)
        offset += _padded(recipe.nbytes)
    return placed


def file_bytes(recipes: tuple[WeightRecipe, ...]) -> int:
    """Return the size of the file that these recipes make, padding included."""
    return sum(_padded(recipe.nbytes) for recipe in recipes)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def check_recipes(checkpoint: Checkpoint, recipes: tuple[WeightRecipe, ...]) -> None:
    """Check from the headers alone that the checkpoint has what the config calls for.

    Raises:
        CheckpointError: A tensor is missing or has another shape than the config says.
    """
    for recipe in recipes:
        infos = [checkpoint.info(name) for name in recipe.sources]
        if not infos:
            continue
        shapes = [_permuted(info.shape, recipe.permute) for info in infos]
        rows = sum(shape[0] if shape else 0 for shape in shapes)
        found = (rows, *shapes[0][1:])
        if found != recipe.shape or any(shape[1:] != shapes[0][1:] for shape in shapes):
            names = " + ".join(info.key for info in infos)
            raise CheckpointError(
                f'Weights and config of "{checkpoint.directory}" disagree: {names} is {list(found)}, the config calls '
                f"for {list(recipe.shape)}.",
                "Use the config.json that was saved with these weights.",
            )


def write_weights(
    checkpoint: Checkpoint, recipes: tuple[WeightRecipe, ...], path: Path, advance: Callable[[int], None]
) -> WrittenFile:
    """Write a weight file; memory stays at one block of rows. Call :func:`check_recipes` first.

    What a killed process has written of it is kept as far as the journal beside it vouches for (see
    :mod:`stc_export.exporter.journal`). The journal is left there for whoever removes it.

    Args:
        checkpoint: Where the tensors come from.
        recipes: What to write, in this order.
        path: The file, inside a directory that is renamed when the whole bundle is complete.
        advance: Called with the bytes written since the last call.

    Raises:
        CheckpointError: A tensor cannot be read or holds values that are not finite in the stored type.
        FileExistsError: There is a file without a journal.
    """
    kept = journal.resume(path, _made_from(checkpoint, recipes))
    digest, size = kept.digest, 0
    with path.open("ab") as file:
        for recipe in recipes:
            size += _padded(recipe.nbytes)
            if size <= kept.size_bytes:
                advance(recipe.nbytes)
                continue
            for block in _blocks(checkpoint, recipe):
                _append(file, digest, block.data.cast("B"))
                advance(block.nbytes)
            _append(file, digest, memoryview(bytes(_padded(recipe.nbytes) - recipe.nbytes)))
            file.flush()
            journal.mark(path, size, digest)
    return WrittenFile(path, size, digest.hexdigest())


def _append(file: BinaryIO, digest: Any, data: memoryview) -> None:
    file.write(data)
    digest.update(data)


def _made_from(checkpoint: Checkpoint, recipes: tuple[WeightRecipe, ...]) -> str:
    """Return a digest of the recipes and of which files they read; the files are known by place, size and time."""
    digest = hashlib.sha256(__version__.encode())
    infos = [checkpoint.info(name) for recipe in recipes for name in recipe.sources]
    for file in sorted({info.file for info in infos}):
        digest.update(f"{file.resolve()} {_size_and_time(file)}\n".encode())
    for recipe in recipes:
        digest.update(repr((replace(recipe, values=None), recipe.nbytes)).encode())
        digest.update(b"" if recipe.values is None else recipe.values.tobytes())
    return digest.hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:  # whoever reads it says what is wrong
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _blocks(checkpoint: Checkpoint, recipe: WeightRecipe) -> Iterator[NDArray[Any]]:
    if recipe.values is not None:
        yield np.ascontiguousarray(narrowed(recipe.values, carrier(recipe.dtype))).reshape(-1)
        return
    for name in recipe.sources:
        if recipe.permute:
            yield _stored(name, checkpoint.read(name).permute(recipe.permute), recipe.dtype)
        else:
            for block in checkpoint.read_blocks(name, _BLOCK_BYTES):
                yield _stored(name, block, recipe.dtype)


def _stored(name: str, tensor: Any, dtype: DType) -> NDArray[Any]:
    import torch

    stored = tensor.to(getattr(torch, dtype)).contiguous()
    # Same bytes, in the type that carries them: numpy has no bfloat16.
    carried = stored.view(torch.uint16) if stored.dtype == torch.bfloat16 else stored
    flat: NDArray[Any] = carried.reshape(-1).numpy()
    if not _all_finite(flat, dtype):
        detail = "overflows" if bool(torch.isfinite(tensor).all()) else "holds NaN or infinity"
        raise CheckpointError(
            f'"{name}" {detail} as {dtype}.', "Build with --precision fp32, or repair the checkpoint."
        )
    return flat


#: Bits of the exponent; all are set in NaN and infinity. Asking torch in half precision is ten times slower.
_EXPONENTS: Mapping[DType, int] = {"float16": 0x7C00, "bfloat16": 0x7F80}


def _all_finite(values: NDArray[Any], dtype: DType) -> bool:
    mask = _EXPONENTS.get(dtype)
    if mask is None:
        return bool(np.isfinite(values).all())
    return not bool(((values.view(np.uint16) & np.uint16(mask)) == mask).any())


def _permuted(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in order) if order and len(order) == len(shape) else shape
