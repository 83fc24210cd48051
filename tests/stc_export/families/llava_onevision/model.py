"""What the tests of this family share: the model in transformers, the graphs in ONNX Runtime, and a scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stc_calib.pictures import real_frames
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.bundle import read_manifest

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


def scene(size: int, frames: int, step: int = 3) -> list[NDArray[np.uint8]]:
    """A photograph in which a block moves by ``step`` pixels per frame, with sensor noise on every pixel."""
    background = real_frames(size)[0].astype(np.float64)
    noise = np.random.default_rng(0)
    block = background[size // 5 : size // 2, size // 5 : size // 2]
    pictures = []
    for index in range(frames):
        picture = background.copy()
        left = (size // 4 + index * step) % (size - block.shape[1])
        picture[size // 2 : size // 2 + len(block), left : left + block.shape[1]] = block
        noisy = picture + noise.normal(0.0, 3.0, picture.shape)
        pictures.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
    return pictures


def relative_error(found: Any, expected: Any) -> float:
    """Largest difference relative to the largest absolute value that is expected."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())
