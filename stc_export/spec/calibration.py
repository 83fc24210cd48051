"""What rounding weights to few bits did: ``calib/record.json`` of a bundle, schema ``stc.calib/1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_export.spec import codec
from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_text

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "stc.calib/1"
RECORD_NAME = "calib/record.json"
#: A record of a 100-layer model is about 50 kB.
_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True)
class TensorError:
    """What rounding did to one weight.

    Attributes:
        name: Its name in the weight file.
        relative_error: Norm of (rounded - original) relative to the norm of the original (Frobenius).
    """

    name: str
    relative_error: float


@dataclass(frozen=True)
class RoundedFile:
    """A weight file that holds rounded weights.

    Attributes:
        file: Its path in the bundle.
        precision: As in the manifest, e.g. ``int4``.
        bits: Bits of a weight.
        block: Weights that share a scale; ``None``: all of an output.
        source_sha256: Digest of the original values, one tensor after another as the checkpoint holds them.
        tensors: The weights in the order of the file, at least one.
    """

    file: str
    precision: str
    bits: int
    block: int | None
    source_sha256: str
    tensors: tuple[TensorError, ...]

    @property
    def mean_error(self) -> float:
        """Mean of the relative errors."""
        return sum(tensor.relative_error for tensor in self.tensors) / max(1, len(self.tensors))

    @property
    def worst(self) -> TensorError:
        """The weight with the largest relative error."""
        return max(self.tensors, key=lambda tensor: tensor.relative_error, default=TensorError("", 0.0))


@dataclass(frozen=True)
class RoundingRecord:
    """All rounded weights of a bundle. Rounding is to the nearest and looks at no data."""

    schema: str
    files: tuple[RoundedFile, ...]


def read_record(bundle: Path) -> RoundingRecord:
    """Read the record of a bundle.

    Raises:
        BundleError: It cannot be read, or is no record of this version.
    """
    path = bundle / RECORD_NAME
    try:
        record = codec.from_json(RoundingRecord, read_text(path, _MAX_BYTES))
    except (OSError, ValueError) as error:
        raise BundleError(f'"{path}" cannot be used ({error}).', "Build the bundle again.") from error
    if record.schema != SCHEMA:
        raise BundleError(f'"{path}" has schema "{record.schema[:40]}", expected "{SCHEMA}".', "Update stc-export.")
    return record
