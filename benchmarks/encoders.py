"""The dense ViT in what else users have for it, over the same weights: transformers, compiled or not, and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from bench import Bench
from dense import DenseVit
from numpy.typing import NDArray
from original import open_original

from stc_export.pipeline.bench.series import Measured, Series, Step, compare, interleaved, timed_ms
from stc_export.pipeline.bench.stages import VitPasses
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.operations import vit_macs

WARMUP = 2
#: Patch embeddings [T, C] -> features [T, C].
Encode = Callable[[NDArray[Any]], NDArray[Any]]


def _sdpa(bench: Bench) -> Encode:
    return _encode(_module(bench))


def _compiled(bench: Bench) -> Encode:
    return _encode(torch.compile(_module(bench)))


def _module(bench: Bench) -> Any:
    torch.set_num_threads(bench.threads or torch.get_num_threads())
    tower = open_original(bench.bundle, bench.manifest.dims).vision_tower
    position = tower.embeddings.position_embedding.weight
    return lambda embeddings: tower.encoder(inputs_embeds=embeddings[None] + position).last_hidden_state[0]


def _encode(module: Callable[[Any], Any]) -> Encode:
    def run(embeddings: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            features: NDArray[Any] = module(torch.from_numpy(embeddings)).numpy()
        return features

    return run


def _openvino(bench: Bench) -> Encode:
    import openvino

    graph = DenseVit(bench.bundle, bench.manifest.dims, bench.backend()).path
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if bench.threads is not None:
        options["INFERENCE_NUM_THREADS"] = bench.threads
    model = openvino.Core().read_model(graph)
    model.reshape([1, *model.inputs[0].partial_shape[1:]])
    compiled = openvino.compile_model(model, "CPU", options)
    return lambda embeddings: compiled([embeddings[None]])[0][0]


#: Name in the rows -> makes it ready.
OTHERS: Mapping[str, Callable[[Bench], Encode]] = {
    "transformers with SDPA": _sdpa,
    "transformers with torch.compile": _compiled,
    "OpenVINO": _openvino,
}


def measure_encoders(bench: Bench) -> Measured:
    """The dense graph in ONNX Runtime against the others, frame by frame."""
    vision = bench.manifest.dims.vision
    embeddings = VitPasses(bench.model(), bench.manifest.policy, "gate", read_scene(None, 3).frames).embeddings
    dense = DenseVit(bench.bundle, bench.manifest.dims, bench.backend())
    ways: dict[str, Encode] = {"dense": lambda one: dense.run(one[None])[0]}
    expected, notes = ways["dense"](embeddings[0]), []
    for name, opened in OTHERS.items():
        try:
            encode = opened(bench)
            notes.append(_apart(name, encode(embeddings[0]), expected))
            ways[name] = encode
        except Exception as error:  # a package or a compiler that is not here: the others can be measured
            notes.append(f"{name} was left out: {type(error).__name__}: {error}".splitlines()[0])
    with bench.progress.stage("dense vit", bench.plan.vit_rounds, "rounds") as advance:
        steps = [_step(encode, embeddings) for encode in ways.values()]
        samples = interleaved(steps, WARMUP, bench.plan.vit_rounds, advance)
    macs = vit_macs(vision, "gate", vision.tokens)
    ours, *theirs = (Series(name, macs, WARMUP, 1, taken) for name, taken in zip(ways, samples, strict=True))
    return Measured((ours, *theirs), tuple(compare(ours, other) for other in theirs), tuple(notes))


def _step(encode: Encode, embeddings: list[NDArray[Any]]) -> Step:
    return lambda index: timed_ms(lambda: encode(embeddings[index % len(embeddings)]))


def _apart(name: str, features: NDArray[Any], expected: NDArray[Any]) -> str:
    """Say how far features [T, C] are from those of the dense graph, in parts of its largest."""
    return (
        f"features of {name} differ by {np.abs(features - expected).max() / np.abs(expected).max():.1e} of the largest"
    )
