"""First stage: tower and projector learn from single frames what each visual token shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from labels import CLASSES, IGNORE, STILLS, still_life, token_labels
from optim import make_optimizers, set_rate
from PIL import Image
from shape import DIMS, visual_tokens
from state_io import load_run, save_run
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from stc_export.world.render import Renderer

#: Still lifes per step, of 8 frames each.
SCENES = 8
RATE = 2e-3
#: Weight of the class "none" (the last one of each head), which is most of what there is.
_NONE_WEIGHT = 0.3
#: The shape is what takes longest to learn.
_HEAD_WEIGHT = {"shape": 3.0, "cell": 0.3}


def pixels_of(frames: np.ndarray) -> np.ndarray:
    """Resize frames as the processor does: uint8 [F, H, W, 3] to uint8 [F, 3, 96, 96]."""
    side = DIMS.vision.image_size
    small = [np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)) for frame in frames]
    return np.stack(small).transpose(0, 3, 1, 2)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """From 0 to 255 to -1 to 1, as the processor does."""
    return pixels.float() / 127.5 - 1


class Stills(Dataset):  # type: ignore[type-arg]
    """Still lifes by number: pixels uint8 [8, 3, 96, 96], labels int64 [8, heads, 36], offsets float32 [8, 36, 2]."""

    def __init__(self, split: str, first: int, count: int) -> None:
        self._split, self._first, self._count = split, first, count

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Render one."""
        clip = still_life(f"{self._split}/{self._first + index}")
        pixels = pixels_of(np.stack(list(Renderer(clip).frames())))
        labels, offsets = zip(*(token_labels(clip, frame) for frame in range(STILLS)), strict=True)
        return torch.from_numpy(pixels.copy()), torch.from_numpy(np.stack(labels)), torch.from_numpy(np.stack(offsets))


class TokenHeads(torch.nn.Module):
    """Linear readings of a visual token; thrown away after the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = torch.nn.Linear(DIMS.text.width, sum(CLASSES.values()))
        self.offset = torch.nn.Linear(DIMS.text.width, 2)
        self.norm = torch.nn.LayerNorm(DIMS.text.width)

    def losses(self, tokens: torch.Tensor, labels: torch.Tensor, offsets: torch.Tensor) -> tuple[Any, dict[str, Any]]:
        """Return the loss and the accuracy of each head where there is something.

        Args:
            tokens: float32 [B, 36, D].
            labels: int64 [B, heads, 36].
            offsets: float32 [B, 36, 2].
        """
        tokens = self.norm(tokens)
        outputs = self.classes(tokens).split(list(CLASSES.values()), dim=-1)
        total, right = 0.0, {}
        for place, (name, output) in enumerate(zip(CLASSES, outputs, strict=True)):
            target = labels[:, place]
            weight = torch.ones(output.shape[-1])
            if name != "cell":
                weight[-1] = _NONE_WEIGHT
            loss = functional.cross_entropy(output.transpose(1, 2), target, weight, ignore_index=IGNORE)
            total = total + loss * _HEAD_WEIGHT.get(name, 1.0)
            something = (target != IGNORE) & ((target != output.shape[-1] - 1) if name != "cell" else True)
            right[name] = (output.argmax(-1) == target)[something].float().mean().item()
        known = ~offsets.isnan()
        miss = (self.offset(tokens) - offsets.nan_to_num())[known].abs()
        right["offset"] = miss.mean().item()
        return total + 2 * miss.clamp(max=2).mean(), right


def train_tower(model: Any, run: Path, steps: int, workers: int, report: Callable[[int, str], None]) -> None:
    """Train tower and projector, resuming from ``run`` if there is something; ``workers`` processes draw."""
    heads = TokenHeads()
    parts = {"tower": model.model.vision_tower, "projector": model.model.multi_modal_projector, "heads": heads}
    optimizers = make_optimizers(list(parts.values()), RATE)
    done = load_run(run, parts, optimizers)
    data = Stills("train", done * SCENES, (steps - done) * SCENES)
    for step, batch in enumerate(DataLoader(data, SCENES, num_workers=workers), done):
        set_rate(optimizers, RATE, step, steps)
        pixels, labels, offsets = (part.to(model.device).flatten(0, 1) for part in batch)
        loss, right = heads.losses(visual_tokens(model, normalised(pixels)), labels, offsets)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        text = f"loss {loss.item():.3f} " + " ".join(f"{k} {v:.3f}" for k, v in right.items())
        report(step + 1, text if (step + 1) % 20 == 0 else "")
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save_run(run, parts, optimizers, step + 1)
