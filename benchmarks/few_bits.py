"""Tokens of an answer with the LLM's weights in 4 bits against float32: one model, three bundles, in turns.

    python benchmarks/few_bits.py [--shape NAME] [--threads N] [--tokens N] [--results DIR] WORK

Writes a checkpoint of a published shape with its whole vocabulary and random weights, and bundles of it in fp32, in
int4, and in int4 with the output matrix, to WORK (some 6 GB for llava-onevision-0.5b), and
benchmarks/results/few-bits-SHAPE.json. What is there is used again. The ViT, which has no part in decoding, is cut to
two layers. Random weights change answers, not times.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench import Bench, record
from decode import WARMUP, Answer, in_blocks, tokens_in_all
from make_checkpoint import write_random_checkpoint
from shapes import FULL, SHAPES, Shape
from tables import RESULTS, markdown

from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import load_average, write_record
from stc_export.pipeline.bench.series import Measured, Series, compare
from stc_export.pipeline.build import run_build
from stc_export.pipeline.operations import llm_macs
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.progress import Progress

#: Name of a bundle -> precision of the LLM's layers, and of its output matrix. All are compared with the last one.
BUNDLES: Mapping[str, tuple[str, str | None]] = {
    "int4-head": ("int4", "int4"),
    "int4": ("int4", None),
    "fp32": ("fp32", None),
}
#: Tokens before the answer.
CONTEXT = 500


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llava-onevision-0.5b", help="which published sizes")
    parser.add_argument("--threads", type=int, help="threads inside an operator (default: one per core)")
    parser.add_argument("--tokens", type=int, default=FULL.decode_tokens, help="tokens that are measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for checkpoint and bundles")
    options = parser.parse_args(arguments)
    progress = make_progress()
    shape = without_vision(SHAPES[options.shape])
    plan = replace(FULL, name=options.shape, dims=shape.dims)
    bundles = [made(options.work / options.shape, shape, name, progress) for name in BUNDLES]
    benches = [Bench(plan, bundle, bundle, options.threads, progress) for bundle in bundles]
    load_before = load_average()
    measured = measure(benches, options.tokens)
    options.results.mkdir(parents=True, exist_ok=True)
    out = options.results / f"few-bits-{options.shape}.json"
    write_record(record(benches[0], measured, load_before), out)
    print(f"{out}\n\n{markdown(measured.rows)}")
    return 0


def without_vision(shape: Shape) -> Shape:
    """Return a shape with two layers of the ViT."""
    return replace(shape, dims=replace(shape.dims, vision=replace(shape.dims.vision, layers=2)))


def made(checkpoint: Path, shape: Shape, name: str, progress: Progress) -> Path:
    """Return a bundle beside its checkpoint, built if it is not there yet."""
    bundle = checkpoint.with_name(f"{checkpoint.name}-{name}.stc")
    if not bundle.exists():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(checkpoint, shape, 0, progress)
        precision, head = BUNDLES[name]
        run_build(BuildRequest(str(checkpoint), out=bundle, precision=precision, head=head), progress)
    return bundle


def measure(benches: list[Bench], tokens: int) -> Measured:
    """Answer after the same prompt with each bundle, a block of tokens of each in turns."""
    text = benches[0].manifest.dims.text
    prompt = tuple(np.random.default_rng(0).integers(0, text.vocab, min(CONTEXT, text.context // 4)).tolist())
    answers = [Answer(bench, prompt, tokens_in_all(tokens)) for bench in benches]
    with benches[0].progress.stage("decode", tokens, "tokens") as advance:
        samples = in_blocks([answer.write for answer in answers], tokens, advance)
    macs, names = llm_macs(text, 1, len(prompt)), [f"decode, {len(prompt)} tokens before, {name}" for name in BUNDLES]
    series = tuple(Series(name, macs, WARMUP, 1, taken) for name, taken in zip(names, samples, strict=True))
    return Measured(series, tuple(compare(few, series[-1]) for few in series[:-1]))


if __name__ == "__main__":
    raise SystemExit(main())
