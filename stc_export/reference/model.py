"""The original model as a stream uses it: a LLaVA-OneVision checkpoint in transformers' own classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stc_export.exporter.checkpoint import read_config
from stc_export.exporter.preprocess import Preprocessing, read_preprocessing
from stc_export.families import find_family
from stc_export.reference.attention import AttentionForm
from stc_export.spec.errors import CheckpointError, DeviceError, StcError
from stc_export.spec.manifest import Manifest
from stc_runtime.bundle import Bundle
from stc_runtime.text import Tokenizer


@dataclass(frozen=True, eq=False)
class TorchModel:
    """An opened checkpoint that any number of streams share. No state of a stream is in here.

    Attributes:
        model: A ``LlavaOnevisionForConditionalGeneration``.
        form: How it computes attention.
        manifest: Of the bundle that was built from it: sizes, prompt, stop tokens.
        preprocessing: How frames are prepared.
        tokenizer: The bundle's, which is the checkpoint's.
    """

    model: Any
    form: AttentionForm
    manifest: Manifest
    preprocessing: Preprocessing
    tokenizer: Tokenizer

    @property
    def language(self) -> Any:
        """The LLM without its output layer, a ``Qwen2Model``."""
        return self.model.model.language_model

    @property
    def vision_layers(self) -> Sequence[Any]:
        """Encoder layers up to the one whose output the LLM sees."""
        layers: Sequence[Any] = self.model.model.vision_tower.encoder.layers[: self.manifest.dims.vision.layers]
        return layers

    @property
    def newline(self) -> torch.Tensor:
        """Embedding [1, D] behind the last frame."""
        return self.model.model.image_newline[None]

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array on the model's device, in its own type."""
        return torch.from_numpy(array).to(self.model.device)

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the embeddings [S, D] of token ids."""
        embedded: torch.Tensor = self.language.embed_tokens(self.tensor(np.array(tokens, np.int64)))
        return embedded

    def patch_embeddings(self, frame: NDArray[np.uint8]) -> torch.Tensor:
        """Resize, normalise and embed a frame uint8 [H, W, 3]; returns [T, C] without positions.

        Pillow resizes, as transformers' own processor does, and not the runtime.
        """
        from PIL import Image

        spec = self.preprocessing.spec
        resample = Image.Resampling[spec.resample.upper()]
        square = np.asarray(Image.fromarray(frame).resize((spec.size, spec.size), resample), np.float32)
        mean, std = (np.array(x, np.float32) for x in (self.preprocessing.mean, self.preprocessing.std))
        pixels = (square / 255.0 - mean) / std
        image = self.tensor(pixels.astype(np.float32).transpose(2, 0, 1)[None]).to(self.model.dtype)
        patches: torch.Tensor = self.model.model.vision_tower.embeddings.patch_embedding(image)
        return patches.flatten(2).transpose(1, 2)[0]

    def positions(self) -> torch.Tensor:
        """Return what is added to the patch embeddings, [T, C]."""
        weight: torch.Tensor = self.model.model.vision_tower.embeddings.position_embedding.weight
        return weight

    def visual_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Project and pool the features [T, C] of a frame to its visual tokens [M, D]."""
        return self.pooled(self.model.model.multi_modal_projector(features[None])[0])

    def pooled(self, rows: torch.Tensor) -> torch.Tensor:
        """Pool what tokens [T, W] have to what visual tokens have, [M, W]."""
        pooled: torch.Tensor = self.model.model.apply_pooling(rows[None])
        return pooled[0]

    def logits(self, hidden: torch.Tensor) -> NDArray[np.float32]:
        """Return the logits [V] of a hidden state [D] behind the last norm."""
        found: NDArray[np.float32] = self.model.lm_head(hidden).float().cpu().numpy()
        return found


def open_model(bundle: Path, checkpoint: Path, form: AttentionForm, threads: int | None = None) -> TorchModel:
    """Read a checkpoint and check that a bundle was built from it.

    The manifest holds no digest of the checkpoint. Compared are the architecture, all sizes, and the two tables that
    the bundle keeps as they were, in its own precision: token embeddings and newline.

    Args:
        bundle: The bundle.
        checkpoint: Directory of the checkpoint.
        form: How attention is computed.
        threads: Threads of torch in this process; ``None``: as they are.

    Raises:
        BundleError: The bundle cannot be used.
        CheckpointError: The checkpoint cannot be used, or is not the one of the bundle.
        DeviceError: The form needs a GPU and there is none.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    _check_sizes(manifest, checkpoint)
    preprocessing = read_preprocessing(checkpoint, manifest.dims.vision.image_size)
    tokenizer = Tokenizer.open(bundle / manifest.tokenizer)
    found = TorchModel(_load(checkpoint, form), form, manifest, preprocessing, tokenizer)
    _check_tables(opened, found, checkpoint)
    return found


def _check_sizes(manifest: Manifest, checkpoint: Path) -> None:
    config = read_config(checkpoint)
    family = find_family(config, str(checkpoint))
    if config["architectures"][0] != manifest.model.architecture or (
        family.read(config, str(checkpoint)).dims != manifest.dims
    ):
        raise _another(checkpoint, "architecture or sizes")


def _check_tables(bundle: Bundle, model: TorchModel, checkpoint: Path) -> None:
    tables = {"embed": model.language.embed_tokens.weight, "newline": model.model.model.image_newline}
    for name, weight in tables.items():
        stored = bundle.table(name)
        own = weight.detach().float().cpu().numpy()
        rounded = np.asarray(stored, np.float32)
        near = own.astype(stored.dtype).astype(np.float32)
        if near.shape != rounded.shape or not _same(near, rounded, model.form):
            raise _another(checkpoint, f'weights (table "{name}")')


def _same(own: NDArray[np.float32], stored: NDArray[np.float32], form: AttentionForm) -> bool:
    if form.dtype == "float32":
        return bool(np.array_equal(own, stored))
    return bool(np.allclose(own, stored, rtol=2**-7, atol=1e-6))  # read in bfloat16, which has eight bits


def _another(checkpoint: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f'"{checkpoint}" is not the checkpoint that this bundle was built from: it has other {what}.',
        "Give the right one with --model, or build the bundle again.",
    )


def _load(checkpoint: Path, form: AttentionForm) -> Any:
    from transformers import LlavaOnevisionForConditionalGeneration

    device = form.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--attention {form.name} needs an NVIDIA GPU.", "Choose --attention sdpa.")
    try:
        with _quiet():
            model = LlavaOnevisionForConditionalGeneration.from_pretrained(
                checkpoint,
                dtype=getattr(torch, form.dtype),
                attn_implementation=form.name,
                local_files_only=True,
                use_safetensors=True,
            )
    except StcError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise CheckpointError(
            f'transformers cannot read "{checkpoint}" ({str(error)[:160]}).',
            "Save the checkpoint again.",
        ) from error
    return model.eval().requires_grad_(requires_grad=False).to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting layers that nothing here runs, such as the pooling head of the tower."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
