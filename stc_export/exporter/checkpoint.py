"""Read a checkpoint directory tensor by tensor: config, safetensors headers, sharded or not.

Nothing is unpickled and no weight is read before it is asked for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_export.spec.errors import CheckpointError
from stc_export.spec.files import read_text

#: A config or index larger than this is not one.
_MAX_JSON_BYTES = 64 * 1024 * 1024
#: Longer file names do not exist.
_MAX_NAME = 255
#: Characters of a name in a file that an error shows.
_SHOWN = 80
_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the checkpoint, known from the header alone.

    Attributes:
        key: Name in the file.
        file: File that holds it.
        shape: Its shape.
        dtype: ``F32``, ``F16`` or ``BF16``.
    """

    key: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory with its config and the headers of its tensors.

    Attributes:
        directory: Where it lies.
        config: Parsed ``config.json``.
        tensors: Canonical tensor name -> header.
    """

    directory: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @property
    def changes(self) -> str:
        """Digest of what makes its tensors others than those of its files; "" if nothing does."""
        return ""

    def info(self, name: str) -> TensorInfo:
        """Return the header of a tensor by canonical name.

        Raises:
            CheckpointError: The checkpoint has no such tensor.
        """
        found = self.tensors.get(name)
        if found is None:
            raise CheckpointError(
                f'The weights in "{self.directory}" lack "{name}", which their config calls for.',
                "Check that all shards are there and belong to this config.",
            )
        return found

    def read(self, name: str) -> Any:
        """Read one tensor by canonical name as a ``torch.Tensor`` on the CPU in the dtype of the file.

        Raises:
            CheckpointError: Missing tensor or unreadable file.
        """
        info = self.info(name)
        with _open(info.file) as handle:
            return handle.get_tensor(info.key)

    def read_blocks(self, name: str, block_bytes: int) -> Iterator[Any]:
        """Read one tensor in blocks of rows of about ``block_bytes``, each a ``torch.Tensor``.

        Raises:
            CheckpointError: Missing tensor or unreadable file.
        """
        info = self.info(name)
        rows = max(1, block_bytes * info.shape[0] // max(1, 4 * info.elements)) if info.shape else 1
        with _open(info.file) as handle:
            part = handle.get_slice(info.key)
            for first in range(0, info.shape[0], rows):
                yield part[first : min(first + rows, info.shape[0])]


def read_config(directory: Path) -> Mapping[str, Any]:
    """Read ``config.json``.

    Raises:
        CheckpointError: The directory or file is missing or not a JSON object.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f'"{directory}" is not a directory with a checkpoint.',
            "Give the folder that save_pretrained wrote, or demo.",
        )
    return read_json_object(directory / "config.json")


def read_json_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON object from a checkpoint.

    Raises:
        CheckpointError: Missing, too large, not UTF-8 or not a JSON object.
    """
    try:
        data = json.loads(read_text(path, _MAX_JSON_BYTES))
    except FileNotFoundError as error:
        raise CheckpointError(f'"{path}" is missing.', "Give a complete checkpoint directory.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'"{path}" cannot be read as JSON ({error}).', "Save the checkpoint again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f'"{path}" is not a JSON object.', "Save the checkpoint again.")
    return data


def read_checkpoint(directory: Path, canonical: Callable[[str], str]) -> Checkpoint:
    """Read config and tensor headers of a directory as ``save_pretrained`` writes it.

    Args:
        directory: Checkpoint directory with ``model.safetensors`` or ``model.safetensors.index.json``.
        canonical: Maps a key of any known layout to the family's canonical name.

    Raises:
        CheckpointError: A file is missing, unreadable or corrupt, or a tensor has a type that cannot be exported.
    """
    config = read_config(directory)
    tensors: dict[str, TensorInfo] = {}
    for file in _weight_files(directory):
        with _open(file) as handle:
            for key in handle.keys():  # noqa: SIM118 - not a dict
                part = handle.get_slice(key)
                info = TensorInfo(key, file, tuple(part.get_shape()), str(part.get_dtype()))
                name, shown = canonical(key), key[:_SHOWN]
                if name in tensors:
                    raise CheckpointError(
                        f'"{directory}" holds "{shown}" and "{tensors[name].key[:_SHOWN]}", which are the same tensor.',
                        "Save the checkpoint again.",
                    )
                if info.dtype not in _DTYPES:
                    raise CheckpointError(
                        f'"{shown}" in "{file.name}" has dtype {info.dtype}; {", ".join(_DTYPES)} can be exported.',
                        "Save the checkpoint without quantisation.",
                    )
                tensors[name] = info
    return Checkpoint(directory, config, tensors)


def _weight_files(directory: Path) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in directory.glob(pattern))
        hint = f" It has {pickled[0]}, which is a pickle and is never loaded." if pickled else ""
        raise CheckpointError(
            f'"{directory}" has no model.safetensors and no model.safetensors.index.json.{hint}',
            "Save it with save_pretrained(..., safe_serialization=True).",
        )
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise CheckpointError(f'"{index}" has no "weight_map" of file names.', "Save the checkpoint again.")
    return [_shard(directory, name) for name in sorted(set(names.values()))]


def _shard(directory: Path, name: str) -> Path:
    if Path(name).name != name or len(name) > _MAX_NAME:
        raise CheckpointError(
            f'The index names the shard "{name[:_SHOWN]}", which is not a plain file name.', "Do not trust it."
        )
    file = directory / name
    if not file.is_file():
        raise CheckpointError(f'The shard "{file}" is missing.', "Fetch or copy all shards.")
    return file


@contextlib.contextmanager
def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        if isinstance(error, CheckpointError) or getattr(error, "errno", None) == errno.ENOMEM:
            raise
        raise CheckpointError(
            f'"{file}" is not a readable safetensors file ({str(error)[:200]}).',
            "It may be truncated: copy or fetch it again.",
        ) from error
