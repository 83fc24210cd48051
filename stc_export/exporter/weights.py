"""Stream weights from a checkpoint into the bundle: one block of rows in memory at a time, every weight written once.

A :class:`WeightRecipe` says how a tensor of a graph is made from tensors of the checkpoint. A :class:`WeightFile` is
the result: ONNX external data with page-aligned tensors, so that runtimes can map it. Linear weights keep the
checkpoint's [out, in] layout (the graphs use ``Gemm`` with ``transB``), therefore fusing q, k and v means writing their
rows one after the other, and a graph that needs only a part refers to the same bytes with another offset and length.

A recipe with a scheme stores rounded weights: their codes, and behind them the scales. Rows are rounded one by one, so
that blocks, concatenation and parts are the same as for all others.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stc_calib.rounding import pack_codes, restore_weights, round_weights
from stc_calib.schemes import Scheme
from stc_export import __version__
from stc_export.exporter import journal
from stc_export.exporter.weight_output import WeightOutput, padded
from stc_export.spec.calibration import TensorError
from stc_export.spec.errors import CheckpointError
from stc_export.spec.manifest import DTYPE_BYTES, DType
from stc_runtime.dtypes import carrier, narrowed, widened

if TYPE_CHECKING:
    from stc_export.exporter.checkpoint import Checkpoint

#: Rows are converted in blocks of about this size (as float32).
_BLOCK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class WeightRecipe:
    """How one stored tensor is made.

    Attributes:
        name: Name in the weight file; graphs refer to it.
        dtype: Stored type; with a scheme that of the scales.
        shape: Stored shape; dimension 0 is the concatenation of the sources.
        sources: Canonical names of checkpoint tensors, concatenated along dimension 0.
        values: Values that do not come from the checkpoint (position-free constants); then ``sources`` is empty.
        permute: Order of the axes applied to a single source before it is stored, e.g. OIHW to OHWI.
        parts: Names for row ranges of this tensor: name -> (first row, rows).
        scheme: How it is rounded to few bits; then it is [out, in] and not permuted.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    values: NDArray[np.float32] | None = None
    permute: tuple[int, ...] = ()
    parts: Mapping[str, tuple[int, int]] | None = None
    scheme: Scheme | None = None

    @property
    def code_bytes(self) -> int:
        """Bytes of the weights without padding."""
        if self.scheme is not None:
            return self.scheme.code_bytes(*self.shape)
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def scales_shape(self) -> tuple[int, ...]:
        """Shape of the scales [out, blocks]; nothing without a scheme."""
        return () if self.scheme is None else (self.shape[0], self.scheme.blocks(self.shape[1]))

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scales without padding."""
        return math.prod(self.scales_shape) * DTYPE_BYTES[self.dtype] if self.scales_shape else 0

    @property
    def nbytes(self) -> int:
        """Stored bytes without padding."""
        return self.code_bytes + self.scale_bytes


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in a weight file.

    Attributes:
        file: Name of the file.
        dtype: Type of its numbers; of rounded weights that of the scales.
        shape: Its shape.
        offset: First byte.
        length: Bytes, without those of scales.
        scheme: How it was rounded to few bits.
        scales: Where the scales [out, blocks] of rounded weights lie.
    """

    file: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int
    length: int
    scheme: Scheme | None = None
    scales: StoredTensor | None = None

    @property
    def nbytes(self) -> int:
        """All bytes, those of scales too."""
        return self.length + (self.scales.length if self.scales else 0)

    def rows(self, first: int, count: int) -> StoredTensor:
        """Return where a range of rows lies."""
        width = self.length // self.shape[0]
        return replace(
            self,
            shape=(count, *self.shape[1:]),
            offset=self.offset + first * width,
            length=count * width,
            scales=self.scales.rows(first, count) if self.scales else None,
        )


@dataclass(frozen=True)
class WrittenFile:
    """A finished weight file.

    Attributes:
        path: The file.
        size_bytes: Its size.
        sha256: Its digest.
        errors: What rounding to few bits cost, tensor by tensor.
        rounded_sha256: Digest of the digests of the original values of those tensors, a line for each.
    """

    path: Path
    size_bytes: int
    sha256: str
    errors: tuple[TensorError, ...]
    rounded_sha256: str


def layout(file: str, recipes: tuple[WeightRecipe, ...]) -> Mapping[str, StoredTensor]:
    """Return where every tensor and every named part will lie, before anything is read."""
    placed: dict[str, StoredTensor] = {}
    offset = 0
    for recipe in recipes:
        whole = _place(file, recipe, offset)
        placed[recipe.name] = whole
        placed |= {part: whole.rows(first, rows) for part, (first, rows) in (recipe.parts or {}).items()}
        offset += _file_bytes(recipe)
    return placed


def _place(file: str, recipe: WeightRecipe, offset: int) -> StoredTensor:
    whole = StoredTensor(file, recipe.dtype, recipe.shape, offset, recipe.code_bytes)
    if recipe.scheme is None:
        return whole
    behind = offset + padded(recipe.code_bytes)
    scales = StoredTensor(file, recipe.dtype, recipe.scales_shape, behind, recipe.scale_bytes)
    return replace(whole, scheme=recipe.scheme, scales=scales)


def file_bytes(recipes: tuple[WeightRecipe, ...]) -> int:
    """Return the size of the file that these recipes make, padding included."""
    return sum(_file_bytes(recipe) for recipe in recipes)


def _file_bytes(recipe: WeightRecipe) -> int:
    return padded(recipe.code_bytes) + padded(recipe.scale_bytes)


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
    kept = journal.resume(path, _made_from(checkpoint, recipes), partial(_fits, recipes))
    notes: list[str] = []
    end = 0
    with path.open("ab") as file, WeightOutput(file, kept, advance) as output:
        for place, recipe in enumerate(recipes):
            end += _file_bytes(recipe)
            if end <= kept.size_bytes:
                notes.append(kept.notes[place])
                advance(recipe.nbytes)
                continue
            notes.append(_write(checkpoint, recipe, output))
            file.flush()
            journal.mark(path, output.size, output.digest, notes[-1])
    rounded = [(recipe.name, _Rounded.read(note)) for recipe, note in zip(recipes, notes, strict=True) if note]
    return WrittenFile(
        path,
        output.size,
        output.digest.hexdigest(),
        tuple(TensorError(name, one.relative_error) for name, one in rounded),
        hashlib.sha256("".join(f"{one.source_sha256}\n" for _, one in rounded).encode()).hexdigest(),
    )


def _write(checkpoint: Checkpoint, recipe: WeightRecipe, output: WeightOutput) -> str:
    """Write a tensor; returns the note on what rounding cost, "" where nothing was rounded."""
    if recipe.scheme is None:
        output.write(_blocks(checkpoint, recipe))
        return ""
    rounder = _Rounder(checkpoint, recipe, recipe.scheme)
    output.write(rounder.codes())
    output.write(iter(rounder.scales))
    return rounder.found.text


@dataclass(frozen=True)
class _Rounded:
    """What is known of a rounded tensor once it is written.

    Attributes:
        relative_error: What rounding cost it.
        source_sha256: Digest of its original values.
    """

    relative_error: float
    source_sha256: str

    @property
    def text(self) -> str:
        """The note in a journal."""
        return f"{self.relative_error.hex()} {self.source_sha256}"

    @staticmethod
    def read(note: str) -> _Rounded:
        """Read a note.

        Raises:
            ValueError: It is not one.
        """
        error, _, digest = note.partition(" ")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f'"{digest}" is not a SHA-256')
        return _Rounded(float.fromhex(error), digest)


def _fits(recipes: tuple[WeightRecipe, ...], place: int, note: str) -> bool:
    """Whether a note can be that of a tensor: rounded ones have one, the others have none."""
    if place >= len(recipes) or (recipes[place].scheme is None) is bool(note):
        return False
    try:
        return not note or math.isfinite(_Rounded.read(note).relative_error)
    except ValueError:
        return False


class _Rounder:
    """Rounds a tensor, and notes what that costs.

    Attributes:
        scales: Scales, block after block; complete behind the last codes.
    """

    def __init__(self, checkpoint: Checkpoint, recipe: WeightRecipe, scheme: Scheme) -> None:
        self._checkpoint, self._recipe, self._scheme = checkpoint, recipe, scheme
        self._digest = hashlib.sha256()
        self._lost, self._whole = 0.0, 0.0
        self.scales: list[NDArray[Any]] = []

    @property
    def found(self) -> _Rounded:
        """What is known behind the last codes."""
        error = math.sqrt(self._lost / self._whole) if self._whole else 0.0
        return _Rounded(error, self._digest.hexdigest())

    def codes(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the packed codes in blocks of rows."""
        dtype = self._recipe.dtype
        for name, original, weights in self._rows():
            self._digest.update(original)
            rounded = round_weights(weights, self._scheme, dtype)
            if not np.isfinite(widened(rounded.scales)).all():
                raise _not_finite(name, dtype, overflows=bool(np.isfinite(weights).all()))
            self._lost += _squares(weights - restore_weights(rounded))
            self._whole += _squares(weights)
            self.scales.append(rounded.scales)
            yield pack_codes(rounded.codes, self._scheme)

    def _rows(self) -> Iterator[tuple[str, memoryview, NDArray[np.float32]]]:
        """Yield name, bytes and values of blocks of rows."""
        import torch

        for name in self._recipe.sources:
            for block in self._checkpoint.read_blocks(name, _BLOCK_BYTES):
                yield name, block.contiguous().view(torch.uint8).numpy().data, block.float().numpy()


def _squares(values: NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _made_from(checkpoint: Checkpoint, recipes: tuple[WeightRecipe, ...]) -> str:
    """Return a digest of the recipes and of which files they read; the files are known by place, size and time."""
    digest = hashlib.sha256(f"{__version__} {checkpoint.changes}".encode())
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
        raise _not_finite(name, dtype, overflows=bool(torch.isfinite(tensor).all()))
    return flat


#: Bits of the exponent; all are set in NaN and infinity. Asking torch in half precision is ten times slower.
_EXPONENTS: Mapping[DType, int] = {"float16": 0x7C00, "bfloat16": 0x7F80}


def _all_finite(values: NDArray[Any], dtype: DType) -> bool:
    mask = _EXPONENTS.get(dtype)
    if mask is None:
        return bool(np.isfinite(values).all())
    return not bool(((values.view(np.uint16) & np.uint16(mask)) == mask).any())


def _not_finite(name: str, dtype: DType, *, overflows: bool) -> CheckpointError:
    detail = "overflows" if overflows else "holds NaN or infinity"
    return CheckpointError(f'"{name}" {detail} as {dtype}.', "Build with --precision fp32, or repair the checkpoint.")


def _permuted(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in order) if order and len(order) == len(shape) else shape
