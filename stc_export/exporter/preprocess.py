"""Read how a checkpoint wants its frames: size, filter, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stc_export.exporter.checkpoint import read_json_object
from stc_export.spec.errors import CheckpointError, UnsupportedError
from stc_export.spec.manifest import PreprocessSpec

#: Where processors lie, the video's before the image's, as transformers 4 and 5 write them: (file, key inside it).
_PLACES = (
    ("video_preprocessor_config.json", None),
    ("processor_config.json", "video_processor"),
    ("preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
)
#: PIL.Image.Resampling
_FILTERS: Mapping[int, Any] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
#: Pixels are divided by it. Known processors have 0.22 to 0.5, and 1 for none.
_LEAST_STD = 1e-3


@dataclass(frozen=True)
class Preprocessing:
    """How frames are prepared.

    Attributes:
        spec: What the host does: resize.
        mean: Per channel, for pixels in 0..1; applied inside ``cacher_gate``.
        std: Per channel, likewise.
    """

    spec: PreprocessSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_preprocessing(directory: Path, image_size: int) -> Preprocessing:
    """Read the processor's config of a checkpoint.

    Args:
        directory: Checkpoint directory.
        image_size: Side of the ViT's input in pixels.

    Raises:
        CheckpointError: No processor config, or values that contradict the model.
        UnsupportedError: A step that the graphs do not have.
    """
    found = _find(directory)
    if found is None:
        raise CheckpointError(
            f'"{directory}" has no preprocessor_config.json or video_preprocessor_config.json.',
            "Copy the processor's files next to the weights (processor.save_pretrained).",
        )
    file, config = found
    _check_steps(file, config)
    size = config.get("size", {})
    sides = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    if sides != (image_size, image_size):
        raise CheckpointError(
            f"{file} has size = {_shown(size)}, the model takes {image_size} x {image_size}.",
            "Use the processor that belongs to these weights.",
        )
    mean, std = (_channels(file, config, key) for key in ("image_mean", "image_std"))
    resample = config.get("resample", 3)
    if not isinstance(resample, int) or resample not in _FILTERS:
        known = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
        raise UnsupportedError(f"{file} asks for resample = {_shown(resample)}.", f"Use one of: {known}.")
    return Preprocessing(PreprocessSpec(image_size, _FILTERS[resample]), mean, std)


def _find(directory: Path) -> tuple[str, Mapping[str, Any]] | None:
    for file, key in _PLACES:
        if (directory / file).is_file():
            data = read_json_object(directory / file)
            section = data if key is None else data.get(key)
            if isinstance(section, Mapping):
                return file, section
    return None


def _check_steps(file: str, config: Mapping[str, Any]) -> None:
    wanted: tuple[tuple[str, bool], ...] = (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_normalize", True),
        ("do_center_crop", False),
    )
    for key, expected in wanted:
        value = config.get(key)
        if value is not None and bool(value) is not expected:
            raise UnsupportedError(
                f"{file} has {key} = {_shown(value)}; frames are resized, rescaled and normalised, not cropped.",
                "Use a processor of that form.",
            )
    factor = config.get("rescale_factor", 1 / 255)
    if not isinstance(factor, (int, float)) or not abs(factor * 255 - 1) <= 1e-6:
        raise UnsupportedError(
            f"{file} has rescale_factor = {_shown(factor)}, expected 1/255.", "Use a processor of that form."
        )


def _channels(file: str, config: Mapping[str, Any], key: str) -> tuple[float, ...]:
    """Return three numbers. Means lie in 0..1; a deviation close to 0 would make every pixel overflow."""
    values = config.get(key)
    least, most = (_LEAST_STD, 1.0) if key == "image_std" else (0.0, 1.0)
    if not isinstance(values, list) or len(values) != 3 or not all(_between(v, least, most) for v in values):
        raise CheckpointError(
            f"{file} has {key} = {_shown(values)}, expected three numbers from {least:g} to {most:g}.",
            "Save the processor again.",
        )
    return tuple(float(v) for v in values)


def _between(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def _shown(value: object) -> str:
    return repr(value)[:60]
