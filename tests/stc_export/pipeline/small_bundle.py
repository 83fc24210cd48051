"""A bundle whose graphs are a few arbitrary bytes: enough for everything that looks at files and manifest only."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stc_export.spec import manifest as m
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "cacher_gate.onnx": b"gate",
    "vit.onnx": b"vision",
    "weights/vit.bin": bytes(range(256)) * 40,
    "weights/gate.bin": b"g" * 100,
    "embed.bin": b"e" * 64,
    "tokenizer.json": b"{}",
}


def small_manifest() -> m.Manifest:
    """Two graphs that share ``weights/vit.bin`` (10,240 bytes); the gate has 100 bytes of its own."""
    features = m.TensorSpec("features", "float32", ("T", 32))
    gate = m.GraphEntry(
        "cacher_gate", "default", "cacher_gate.onnx", ("weights/gate.bin", "weights/vit.bin"), (), (features,), "fp32"
    )
    vit = m.GraphEntry("vit", "gate", "vit.onnx", ("weights/vit.bin",), (features,), (features,), "fp32")
    rows = (m.OutputParity("features", 1e-6, 2e-6, 0.999999, 1e-4, passed=True),)
    return m.Manifest(
        schema=m.SCHEMA,
        writer="stc-export 0.1.0",
        target="cpu",
        flavour="base",
        precision="fp32",
        model=m.ModelInfo("tiny", "llava_onevision", "LlavaOnevision", trained=False, parameters=1234567),
        dims=ModelDims(
            vision=VisionDims(image_size=70, patch_size=14, width=32, mlp_width=80, heads=2, layers=3),
            text=TextDims(48, 112, 4, 2, 16, 2, 512, 1024, 1e6),
        ),
        preprocess=m.PreprocessSpec(70, "bicubic"),
        prompt=m.PromptSpec((), (m.Piece(question=True),), (), (0,)),
        tokenizer="tokenizer.json",
        graphs=(gate, vit),
        tables=(m.TableEntry("embed", "embed.bin", "float32", (2, 8), 0),),
        pruners=(m.PrunerEntry("none", "none", 0),),
        policy=Policy(),
        session=m.SessionMemory(10_240, 2_000, 3_000, 4_000, 90_000_000),
        parity=(m.GraphParity("vit.onnx", "full", "module", "all 3", rows),),
        files=tuple(
            m.FileEntry(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in sorted(FILES.items())
        ),
    )


def write_small_bundle(directory: Path) -> Path:
    """Write the bundle and return its directory."""
    for path, data in FILES.items():
        file = directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (directory / m.MANIFEST_NAME).write_text(m.manifest_to_text(small_manifest()), encoding="utf-8")
    return directory
