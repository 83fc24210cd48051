"""Write a checkpoint of a published shape with random weights, for measurements that need a real size.

    python benchmarks/make_checkpoint.py --shape llava-onevision-7b|llava-onevision-0.5b [--seed N] OUT

Tensors are drawn and written one block after the other as sharded safetensors in float16, so memory stays below a few
hundred megabytes. A file that is there in full is kept: the same command continues what was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from shapes import SHAPES, Shape

from stc_export.cli.progress import make_progress
from stc_export.demo.checkpoint import CheckpointOptions, model_config, save_without_weights
from stc_export.demo.weights import distribution, random_values
from stc_export.spec.progress import Progress

SHARD_BYTES = 2 * 1024**3
#: Larger tensors are drawn from a table, because normal numbers take minutes for billions of values.
EXACT_ELEMENTS = 2_000_000
BLOCK_ELEMENTS = 8 * 1024**2

Parameters = Mapping[str, torch.Tensor]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True, help="which published sizes")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument("out", type=Path, metavar="OUT", help="directory of the checkpoint")
    options = parser.parse_args(arguments)
    write_random_checkpoint(options.out, SHAPES[options.shape], options.seed, make_progress())
    return 0


def write_random_checkpoint(out: Path, shape: Shape, seed: int, progress: Progress) -> None:
    """Write weights, config, tokenizer and processor; weights that are there are kept."""
    options = CheckpointOptions(tied=shape.tied)
    save_without_weights(out, shape.dims, options)
    shards = list(_shards(_parameters(shape, options)))
    index = {}
    with progress.stage("weights", sum(_nbytes(shard) for shard in shards), "B") as advance:
        for number, shard in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            if not (out / file).exists():
                _write_shard(out / file, shard, seed)
            index |= dict.fromkeys(shard, file)
            advance(_nbytes(shard))
    document = {"metadata": {"total_size": sum(map(_nbytes, shards))}, "weight_map": index}
    (out / "model.safetensors.index.json").write_text(json.dumps(document, indent=2), encoding="utf-8")


def _parameters(shape: Shape, options: CheckpointOptions) -> Parameters:
    """Return names and shapes of all weights; they hold no data."""
    from transformers import LlavaOnevisionForConditionalGeneration

    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(model_config(shape.dims, options))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if shape.tied:
        del parameters["lm_head.weight"]
    return parameters


def _shards(parameters: Parameters) -> Iterator[Parameters]:
    shard: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        if shard and _nbytes(shard) + 2 * parameter.numel() > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = parameter
    yield shard


def _nbytes(shard: Parameters) -> int:
    return 2 * sum(parameter.numel() for parameter in shard.values())


def _write_shard(path: Path, shard: Parameters, seed: int) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        _write_header(file, shard)
        for name, parameter in shard.items():
            for block in _blocks(name, parameter, seed):
                file.write(memoryview(block).cast("B"))
    partial.rename(path)


def _write_header(file: BinaryIO, shard: Parameters) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, parameter in shard.items():
        end = offset + 2 * parameter.numel()
        header[name] = {"dtype": "F16", "shape": list(parameter.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _blocks(name: str, parameter: torch.Tensor, seed: int) -> Iterator[NDArray[np.float16]]:
    """Yield the values of a tensor, which depend on seed and name only."""
    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
    if parameter.numel() <= EXACT_ELEMENTS:
        values = random_values(name, parameter, torch.Generator().manual_seed(number))
        yield np.ascontiguousarray(values.numpy().astype(np.float16))
        return
    generator = np.random.default_rng(number)
    mean, std = distribution(name, parameter)
    table = (mean + std * generator.standard_normal(2**16)).astype(np.float16)
    for first in range(0, parameter.numel(), BLOCK_ELEMENTS):
        count = min(BLOCK_ELEMENTS, parameter.numel() - first)
        yield table[np.frombuffer(generator.bytes(2 * count), np.uint16)]


if __name__ == "__main__":
    raise SystemExit(main())
