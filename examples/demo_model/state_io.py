"""Checkpoints of a training run: safetensors and JSON, nothing pickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def save_run(directory: Path, modules: dict[str, Any], optimizers: list[Any], step: int) -> None:
    """Write modules, optimizer state and the step; an interrupted write leaves the former checkpoint."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value.detach().clone() for key, value in module.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                tensors[f"optimizer/{number}/{index}/{key}"] = torch.as_tensor(value).clone()
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / "run.safetensors.partial"
    save_file({key: value.contiguous() for key, value in tensors.items()}, partial, {"step": json.dumps(step)})
    partial.replace(directory / "run.safetensors")


def load_run(directory: Path, modules: dict[str, Any], optimizers: list[Any]) -> int:
    """Read what :func:`save_run` wrote into modules and optimizers.

    Returns:
        The number of steps done: 0 if there is no checkpoint.
    """
    path = directory / "run.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for key, value in tensors.items():
            parts = key.split("/")
            if parts[0] == "optimizer" and int(parts[1]) == number:
                state["state"].setdefault(int(parts[2]), {})[parts[3]] = value
        optimizer.load_state_dict(state)
    return _step(path)


def _step(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return int(json.loads(file.metadata()["step"]))
