"""What rounding weights to few bits did: ``calib/record.json`` of a bundle, schema ``stc.calib/1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stc_export.spec import codec
from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_text

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "stc.calib/1"
RECORD_NAME = "calib/record.json"
#: A record of a 100-layer model is about 50 kB.
_MAX_BYTES = 1024 * 1024


#: To the nearest, or to the nearest after scales of AWQ were folded in.
Rounding = Literal["nearest", "awq"]


@dataclass(frozen=True)
class TensorError:
    """What rounding did to one weight.

    Attributes:
        name: Its name in the weight file.
        relative_error: Norm of (rounded - original) relative to the norm of the original (Frobenius). The original has
            the scales of AWQ in it.
    """

    name: str
    relative_error: float


@dataclass(frozen=True)
class FoldedScales:
    """Scales of AWQ in a layer. Errors are norms relative to that of the output, on calibration data.

    Attributes:
        layer: Name of the layer, e.g. ``llm.layers.0.qkv``.
        alpha: Power of the mean input; 0: no scales, since none were better.
        nearest_error: What rounding changes in the layer's output without scales.
        error: What it changes with them.
    """

    layer: str
    alpha: float
    nearest_error: float
    error: float


@dataclass(frozen=True)
class RoundedFile:
    """A weight file that holds rounded weights.

    Attributes:
        file: Its path in the bundle.
        precision: As in the manifest, e.g. ``int4``.
        bits: Bits of a weight.
        block: Weights that share a scale; ``None``: all of an output.
        source_sha256: Digest of the original values, one tensor after another as the checkpoint holds them; with AWQ as
            they are in float32 when scales were folded in.
        tensors: The weights in the order of the file, at least one.
        rounding: How it was rounded.
        kept: Layers that would have been rounded and were left as they are.
        folded: Scales of AWQ.
    """

    file: str
    precision: str
    bits: int
    block: int | None
    source_sha256: str
    tensors: tuple[TensorError, ...]
    rounding: Rounding = "nearest"
    kept: tuple[str, ...] = ()
    folded: tuple[FoldedScales, ...] = ()

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
    """All rounded weights of a bundle."""

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
