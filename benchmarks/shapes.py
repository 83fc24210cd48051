"""What `make bench` measures: models of real layer shapes with random weights, built once and kept in .cache."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import stc_export
from stc_export.demo.checkpoint import CheckpointOptions, write_checkpoint
from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.dims import ModelDims, TextDims, VisionDims
from stc_export.spec.policy import Policy, PrunerPolicy
from stc_export.spec.progress import Progress

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "benchmarks"
#: Sources that decide what a bundle looks like; an older one is built again when they change.
_SOURCES = ("exporter", "families", "pruners")


@dataclass(frozen=True)
class Plan:
    """Sizes of a model and of the measurements on it.

    Attributes:
        name: Name of the model.
        dims: Its sizes.
        keep: Share of visual tokens that the policy keeps.
        vit_rounds: Samples of each ViT measurement.
        batch: Frames of the dense batched encoding.
        prefill_frames: Lengths of the streams that are prefilled.
        stream_frames: Frames of a stream of whole frames.
        repeats: Passes over a stream.
    """

    name: str
    dims: ModelDims
    keep: float
    vit_rounds: int
    batch: int
    prefill_frames: tuple[int, ...]
    stream_frames: int
    repeats: int


#: SigLIP so400m-384 before Qwen2-0.5B, as in llava-onevision-qwen2-0.5b: T = 729, M = 196. The vocabulary is cut from
#: 152,000 to 8,000: prefill computes logits of the last position only, and the table would be 0.5 GB of random numbers.
FULL = Plan(
    name="llava-onevision-0.5b",
    dims=ModelDims(
        vision=VisionDims(image_size=384, patch_size=14, width=1152, mlp_width=4304, heads=16, layers=26),
        text=TextDims(
            width=896,
            mlp_width=4864,
            heads=14,
            kv_heads=2,
            head_dim=64,
            layers=24,
            vocab=8000,
            context=32768,
            rope_theta=1e6,
        ),
    ),
    keep=60 / 196,
    vit_rounds=7,
    batch=4,
    prefill_frames=(16, 32),
    stream_frames=8,
    repeats=3,
)
#: The same code in seconds: T = 25, M = 9.
QUICK = Plan(
    name="quick",
    dims=ModelDims(
        vision=VisionDims(image_size=70, patch_size=14, width=32, mlp_width=80, heads=2, layers=2),
        text=TextDims(
            width=48, mlp_width=112, heads=4, kv_heads=2, head_dim=16, layers=2, vocab=512, context=1024, rope_theta=1e6
        ),
    ),
    keep=0.3,
    vit_rounds=2,
    batch=2,
    prefill_frames=(3,),
    stream_frames=3,
    repeats=2,
)


def cached_bundle(plan: Plan, progress: Progress) -> Path:
    """Return the bundle of a plan, built by the usual pipeline with its parity check if it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    out = CACHE / f"{plan.name}-{_fingerprint(plan)}.stc"
    if out.exists():
        return out
    for stale in CACHE.glob(f"{plan.name}-*.stc"):
        shutil.rmtree(stale)
    policy = replace(Policy(), pruner=PrunerPolicy(keep=plan.keep))
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        checkpoint = Path(folder) / plan.name
        write_checkpoint(checkpoint, plan.dims, CheckpointOptions())
        run_build(BuildRequest(str(checkpoint), out=out, policy=policy, attention=True), progress)
    return out


def _fingerprint(plan: Plan) -> str:
    digest = hashlib.sha256(f"{plan.dims} {plan.keep} attention".encode())
    root = Path(stc_export.__file__).parent
    for file in sorted(file for folder in _SOURCES for file in (root / folder).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
