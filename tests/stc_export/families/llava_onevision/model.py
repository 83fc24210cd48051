"""What the tests of this family share: the model in transformers, the graphs in ONNX Runtime, and a scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stc_calib.pictures import real_frames
from stc_export.spec.manifest import read_manifest
from stc_runtime.backends.ort import OrtBackend

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_export.spec.manifest import Manifest, Role
    from stc_runtime.backends.base import Arrays, Engine


@dataclass(frozen=True)
class Pair:
    """One checkpoint in both forms."""

    directory: Path
    bundle: Path
    manifest: Manifest
    reference: Any

    @classmethod
    def open(cls, directory: Path, bundle: Path) -> Pair:
        """Load the checkpoint with transformers in float32, next to the bundle that was built from it."""
        from transformers import LlavaOnevisionForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()
        reference = LlavaOnevisionForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        return cls(directory, bundle, read_manifest(bundle), reference)

    def engine(self, role: Role, variant: str = "default") -> Engine:
        return OrtBackend().open(self.bundle, self.manifest.graph(role, variant))

    def table(self, name: str) -> NDArray[Any]:
        entry = self.manifest.table(name)
        return np.memmap(
            self.bundle / entry.file, entry.dtype, mode="r", offset=entry.offset_bytes, shape=tuple(entry.shape)
        )

    def run(self, role: Role, variant: str, feeds: Arrays) -> dict[str, NDArray[Any]]:
        return self.engine(role, variant).run(feeds, {})


def pixels(frame: NDArray[np.uint8]) -> torch.Tensor:
    """Pixel values [1, 3, H, W] for mean 0.5 and standard deviation 0.5."""
    return ((torch.from_numpy(frame).permute(2, 0, 1) / 255.0 - 0.5) / 0.5)[None]


def scene(size: int, frames: int) -> list[NDArray[np.uint8]]:
    """A photograph under a camera that pans by two pixels per frame, and a block in it that moves by three.

    Every token changes by an amount of its own, so that rankings do not hang on rounding.
    """
    photograph = real_frames(size + 2 * frames)[0]
    block = photograph[size // 5 : size // 2, size // 5 : size // 2]
    pictures = []
    for index in range(frames):
        picture = photograph[index : index + size, 2 * index : 2 * index + size].copy()
        left = (size // 4 + index * 3) % (size - block.shape[1])
        picture[size // 2 : size // 2 + len(block), left : left + block.shape[1]] = block
        pictures.append(picture)
    return pictures


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference relative to the largest absolute value that is expected."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())
