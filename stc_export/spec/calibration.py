"""What rounding did, and what scales were chosen from: ``calib/record.json`` of a bundle, schema ``stc.calib/1``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stc_export.spec import codec
from stc_export.spec.errors import BundleError
from stc_export.spec.files import read_text
from stc_export.spec.manifest import Manifest, PreprocessSpec

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = "stc.calib/1"
RECORD_NAME = "calib/record.json"
#: A record of a 100-layer model is about 50 kB.
_MAX_BYTES = 1024 * 1024
#: Characters of a path that an error shows.
_SHOWN = 80


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
        source_sha256: Digest of the digests of the original values, in hexadecimal, a line for each tensor; values as
            the checkpoint holds them, with AWQ as they are in float32 when scales were folded in.
        tensors: The weights in the order of the file, at least one.
        rounding: How it was rounded.
        kept: Layers that would have been rounded and were left as they are.
        folded: Scales of AWQ.
        data: Name of the data that they were chosen from; "" without AWQ.
        data_sha256: Digest of the prompts: frames, and token ids before and behind them.
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
    data: str = ""
    data_sha256: str = ""

    @property
    def mean_error(self) -> float:
        """Mean of the relative errors."""
        return sum(tensor.relative_error for tensor in self.tensors) / max(1, len(self.tensors))

    @property
    def worst(self) -> TensorError:
        """The weight with the largest relative error."""
        return max(self.tensors, key=lambda tensor: tensor.relative_error, default=TensorError("", 0.0))


@dataclass(frozen=True)
class LayerStep:
    """What a step of a layer's input is worth: the input is divided by it and rounded; ``name`` is the weight's."""

    name: str
    step: float


@dataclass(frozen=True)
class GraphDigest:
    """A graph by its path in the bundle, with its SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class ActivationRecord:
    """Scales of activations, what they were chosen from, and which graphs they belong to.

    Attributes:
        arithmetic: What activations are rounded to: ``int8`` or ``fp8``.
        data: Name of the data.
        data_sha256: Digest of the frames, size and pixels of each.
        frames: How many frames.
        full_passes: Full passes that were seen.
        selective_passes: Selective passes that were seen.
        preprocess: How frames were resized.
        mean: Per channel, for pixels in 0..1.
        std: Per channel.
        graphs: Graphs with these scales in them.
        steps: The scales.
    """

    arithmetic: Literal["int8", "fp8"]
    data: str
    data_sha256: str
    frames: int
    full_passes: int
    selective_passes: int
    preprocess: PreprocessSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    graphs: tuple[GraphDigest, ...]
    steps: tuple[LayerStep, ...]


@dataclass(frozen=True)
class RoundingRecord:
    """All that is rounded in a bundle.

    Attributes:
        schema: ``stc.calib/1``.
        files: Rounded weights.
        activations: Scales of activations; ``None`` where none are rounded, or each by its own largest value.
    """

    schema: str
    files: tuple[RoundedFile, ...]
    activations: ActivationRecord | None = None


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


def check_scales(record: RoundingRecord, manifest: Manifest) -> None:
    """Check that scales of activations were chosen for the graphs and the preprocessing of a bundle.

    Args:
        record: Its record.
        manifest: Its manifest, whose digests of files are those of the files.

    Raises:
        BundleError: They were not.
    """
    chosen = record.activations
    if chosen is None:
        return
    fix = "Build the bundle again: scales are chosen anew."
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    for graph in chosen.graphs:
        found = digests.get(graph.file, "none")
        if found != graph.sha256:
            raise BundleError(
                f'The scales of activations were chosen for "{graph.file[:_SHOWN]}" with SHA-256 {graph.sha256[:12]}, '
                f"the bundle has {found[:12]}.",
                fix,
            )
    if chosen.preprocess != manifest.preprocess:
        raise BundleError(
            f"The scales of activations were chosen for frames of {_text(chosen.preprocess)}, the bundle has frames of "
            f"{_text(manifest.preprocess)}.",
            fix,
        )


def _text(spec: PreprocessSpec) -> str:
    return f"{spec.size} x {spec.size} pixels ({spec.resample})"
