"""Turn what the user calls a model into a checkpoint directory: ``demo``, a directory, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stc_export.demo.checkpoint import DEMO_MODEL
from stc_export.spec.errors import CheckpointError

DEMO = "demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: What is fetched from a hub: no code, no pickles.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.json"]


@dataclass(frozen=True)
class Source:
    """A checkpoint directory and the name under which the user knows it."""

    directory: Path
    name: str


def find_source(model: str) -> Source:
    """Find a model's checkpoint; the demo's comes with the package.

    Args:
        model: ``demo``, an existing directory, or a hub id such as ``llava-hf/llava-onevision-qwen2-0.5b-ov-hf``.

    Raises:
        CheckpointError: There is no such directory, or the hub cannot be reached.
    """
    path = Path(model)
    if model == DEMO and not path.is_dir():
        return Source(DEMO_MODEL, DEMO)
    if path.is_dir():
        return Source(path, path.resolve().name)
    if path.exists() or not _HUB_ID.fullmatch(model):
        kind = "a file" if path.exists() else "missing"
        raise CheckpointError(
            f'"{model}" is {kind}; expected a checkpoint directory, a hub id such as org/name, or demo.',
            "Give the folder that save_pretrained wrote.",
        )
    return Source(_from_hub(model), model)


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client has many error families
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f'"{model}" is not a directory here, and the hub did not deliver it ({reason}).',
            "Check the name and the network, or give a local checkpoint directory.",
        ) from error
