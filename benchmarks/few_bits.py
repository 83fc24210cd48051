"""Tokens of an answer with the LLM's weights, or its memory, in few bits against float32: a model's bundles in turns.

    python benchmarks/few_bits.py [--of weights|memory] [--shape NAME] [--threads N] [--tokens N] [--results DIR] WORK

Writes a checkpoint of a published shape with its whole vocabulary and random weights, and bundles of it in fp32 and in
few bits, to WORK (some 6 GB for llava-onevision-0.5b), and benchmarks/results/few-bits-SHAPE.json or, of memory,
kv-int8-SHAPE.json. What is there is used again. The ViT, which has no part in decoding, is cut to two layers. Random
weights change answers and no times.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
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

#: Name of a bundle -> what ``--precision`` gets, and the precision of its output matrix.
BUNDLES: Mapping[str, tuple[str, str | None]] = {
    "int4-head": ("int4", "int4"),
    "int4": ("int4", None),
    "kv-int8": ("fp32,kv=int8", None),
    "fp32": ("fp32", None),
}


@dataclass(frozen=True)
class Comparison:
    """What is measured in one run.

    Attributes:
        file: Begin of the result's name.
        bundles: Names of bundles; all are compared with the last one.
        contexts: Tokens before the answer.
    """

    file: str
    bundles: tuple[str, ...]
    contexts: tuple[int, ...]


COMPARISONS: Mapping[str, Comparison] = {
    "weights": Comparison("few-bits", ("int4-head", "int4", "fp32"), (500,)),
    "memory": Comparison("kv-int8", ("kv-int8", "fp32"), (500, 2000, 8000)),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--of", choices=sorted(COMPARISONS), default="weights", help="what has few bits")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llava-onevision-0.5b", help="which published sizes")
    parser.add_argument("--threads", type=int, help="threads inside an operator (default: one per core)")
    parser.add_argument("--tokens", type=int, default=FULL.decode_tokens, help="tokens that are measured")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for checkpoint and bundles")
    options = parser.parse_args(arguments)
    progress = make_progress()
    shape = without_vision(SHAPES[options.shape])
    plan = replace(FULL, name=options.shape, dims=shape.dims)
    comparison = COMPARISONS[options.of]
    bundles = [made(options.work / options.shape, shape, name, progress) for name in comparison.bundles]
    benches = [Bench(plan, bundle, bundle, options.threads, progress) for bundle in bundles]
    load_before = load_average()
    measured = measure(benches, comparison, options.tokens)
    options.results.mkdir(parents=True, exist_ok=True)
    out = options.results / f"{comparison.file}-{options.shape}.json"
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


def measure(benches: list[Bench], comparison: Comparison, tokens: int) -> Measured:
    """Answer after prompts of several lengths with each bundle, a block of tokens of each in turns."""
    most = benches[0].manifest.dims.text.context // 4
    contexts = sorted({min(context, most) for context in comparison.contexts})
    parts = [_behind(benches, comparison.bundles, context, tokens) for context in contexts]
    return Measured(
        tuple(series for part in parts for series in part),
        tuple(compare(few, part[-1]) for part in parts for few in part[:-1]),
    )


def _behind(benches: list[Bench], names: tuple[str, ...], context: int, tokens: int) -> tuple[Series, ...]:
    text = benches[0].manifest.dims.text
    prompt = tuple(np.random.default_rng(0).integers(0, text.vocab, context).tolist())
    answers = [Answer(bench, prompt, tokens_in_all(tokens)) for bench in benches]
    with benches[0].progress.stage(f"decode after {context}", tokens, "tokens") as advance:
        samples = in_blocks([answer.write for answer in answers], tokens, advance)
    macs = llm_macs(text, 1, context)
    return tuple(
        Series(f"decode, {context} tokens before, {name}", macs, WARMUP, 1, taken)
        for name, taken in zip(names, samples, strict=True)
    )


if __name__ == "__main__":
    raise SystemExit(main())
