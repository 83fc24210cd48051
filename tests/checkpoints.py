"""Checkpoints that the tests share: random but healthy weights, one directory per layout found in the wild."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stc_export.demo.checkpoint import CheckpointOptions, write_checkpoint
from stc_export.spec.dims import ModelDims, TextDims, VisionDims

if TYPE_CHECKING:
    from collections.abc import Callable


def tiny_dims() -> ModelDims:
    """T = 25 and M = 9 (odd grids); the LLM's heads together are wider than the LLM."""
    return ModelDims(
        vision=VisionDims(image_size=70, patch_size=14, width=32, mlp_width=80, heads=2, layers=3),
        text=TextDims(
            width=48, mlp_width=112, heads=4, kv_heads=2, head_dim=16, layers=2, vocab=512, context=1024, rope_theta=1e6
        ),
    )


def siglip_dims() -> ModelDims:
    """The sizes of SigLIP so400m-384 (T = 729, M = 196) with two layers, before a tiny LLM."""
    vision = VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=2)
    return replace(tiny_dims(), vision=vision)


def medium_dims() -> ModelDims:
    """T = 196 and M = 49, about 6 million parameters."""
    return ModelDims(
        vision=VisionDims(image_size=224, patch_size=16, width=192, mlp_width=768, heads=4, layers=6),
        text=TextDims(
            width=256,
            mlp_width=704,
            heads=4,
            kv_heads=2,
            head_dim=64,
            layers=4,
            vocab=512,
            context=4096,
            rope_theta=1e6,
        ),
    )


def write_medium(directory: Path) -> None:
    """Random weights in a model large enough for its numbers to look like those of a trained one."""
    write_checkpoint(directory, medium_dims(), CheckpointOptions(seed=0))


def write_tiny(directory: Path) -> None:
    """Key names as published and as ``save_pretrained`` writes them: ``language_model.model.*``."""
    write_checkpoint(directory, tiny_dims(), CheckpointOptions(seed=1))


def write_even(directory: Path) -> None:
    """The tiny model with an LLM whose layers all have a multiple of 32 inputs."""
    tiny = tiny_dims()
    dims = replace(tiny, text=replace(tiny.text, width=64, mlp_width=128))
    write_checkpoint(directory, dims, CheckpointOptions(seed=1))


def write_untied(directory: Path) -> None:
    """An output matrix of its own, and the LLM sees the last layer but one."""
    write_checkpoint(directory, tiny_dims(), CheckpointOptions(seed=2, tied=False, feature_layer=-2))


def write_sharded(directory: Path) -> None:
    """The weights of the tiny checkpoint in several files with an index."""
    write_checkpoint(directory, tiny_dims(), CheckpointOptions(seed=1, max_shard_size="60KB"))


def write_new_layout(directory: Path) -> None:
    """The weights of the tiny checkpoint under the names of transformers' modules: ``model.language_model.*``."""
    write_checkpoint(directory, tiny_dims(), CheckpointOptions(seed=1, original_format=False))


def write_siglip(directory: Path) -> None:
    """The real sizes of the vision tower, so that nothing works only because numbers are small or even."""
    write_checkpoint(directory, siglip_dims(), CheckpointOptions(seed=3))


def write_old_layout(directory: Path) -> None:
    """The weights of the tiny checkpoint as the hub has them: ``vision_tower.vision_model.*``, an older config."""
    from safetensors.numpy import load_file, save_file

    write_tiny(directory)
    weights = directory / "model.safetensors"
    save_file({_old_key(key): value for key, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype"] = config.pop("dtype")
    config["text_config"]["rope_theta"] = config["text_config"].pop("rope_parameters")["rope_theta"]
    del config["text_config"]["layer_types"]
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    (directory / "chat_template.jinja").unlink()


def _old_key(key: str) -> str:
    tower = "vision_tower."
    inner = key.removeprefix(tower).removeprefix("vision_model.")
    return f"{tower}vision_model.{inner}" if key.startswith(tower) else key


def shared_directory(root: Path, name: str, write: Callable[[Path], None]) -> Path:
    """Return ``root/name``, written by whichever test process comes first.

    Each process that finds it missing writes one of its own and renames it; of two, one rename wins and the other's
    work is dropped. So nobody ever sees a directory that is half written, and no lock can be left behind.
    """
    final = root / name
    if final.is_dir():
        return final
    own = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    write(own)
    try:
        own.rename(final)
    except OSError:
        shutil.rmtree(own)
    return final
