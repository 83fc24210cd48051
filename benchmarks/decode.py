"""Tokens of an answer, one by one, against onnxruntime-genai: same weights, same threads, same context."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import genai
import numpy as np
from bench import Bench, joined
from numpy.typing import NDArray

from stc_engines.detect import count_cores
from stc_export.pipeline.bench.series import Measured, Series, compare, timed_ms
from stc_export.pipeline.operations import llm_macs
from stc_export.spec.policy import MemoryPolicy
from stc_runtime.language import StreamMemory
from stc_runtime.sampling import greedy

#: Tokens that are measured one after the other, and those before them that are dropped.
BLOCK, WARMUP = 10, 3
#: Between blocks: a runtime's threads wait busily for a while after a call, and would take the other one's cores.
_PAUSE_S = 0.1
#: Tokens that fill the memory at a time, as frames do.
_CHUNK = 196
MISSING = "onnxruntime-genai is not installed, so decoding has no baseline: pip install onnxruntime-genai"


def measure_decode(bench: Bench) -> Measured:
    """Decoding steps with a short and a long memory."""
    return joined([_at(bench, context) for context in bench.plan.decode_contexts])


def _at(bench: Bench, context: int) -> Measured:
    count = tokens_in_all(bench.plan.decode_tokens)
    text = bench.manifest.dims.text
    prompt = tuple(np.random.default_rng(0).integers(0, text.vocab, context).tolist())
    ours = Answer(bench, prompt, count)
    steps, names, notes = [ours.write], [f"decode, {context} tokens before"], [MISSING]
    if genai.installed():
        folder = genai.exported(bench.bundle, bench.manifest.dims)
        # Left to itself it takes one thread, where ONNX Runtime takes one per core.
        other = genai.GenaiLlm(folder, context + count + 1, bench.threads or count_cores())
        notes = [agreement(ours.logits, other.read(prompt), context)]
        steps.append(other.write)
        names.append(f"onnxruntime-genai, {context} tokens before")
    with bench.progress.stage(f"decode {context}", bench.plan.decode_tokens, "tokens") as advance:
        samples = in_blocks(steps, bench.plan.decode_tokens, advance)
    macs = llm_macs(text, 1, context)
    series = [Series(name, macs, WARMUP, 1, taken) for name, taken in zip(names, samples, strict=True)]
    return Measured(tuple(series), tuple(compare(series[0], other) for other in series[1:]), tuple(notes))


def tokens_in_all(count: int) -> int:
    """Return how many tokens an answer needs of which ``count`` are measured."""
    return count + WARMUP * -(-count // BLOCK)


def in_blocks(
    steps: Sequence[Callable[[], object]], count: int, advance: Callable[[int], None]
) -> list[tuple[float, ...]]:
    """Take samples in turns, a block of tokens of each at a time, as an answer is written.

    Args:
        steps: What is measured; each writes a token.
        count: Tokens of each that count.
        advance: Called with the tokens of a block that count.

    Returns:
        Samples of each step in milliseconds.
    """
    samples: list[list[float]] = [[] for _ in steps]
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        for taken, step in zip(samples, steps, strict=True):
            time.sleep(_PAUSE_S)
            taken += [round(timed_ms(step), 4) for _ in range(WARMUP + size)][WARMUP:]
        advance(size)
    return [tuple(taken) for taken in samples]


class Answer:
    """An answer after a prompt of text, which stands for frames: :meth:`write` does what a session does for each token.

    Attributes:
        logits: Of the last token of the prompt, then of the newest one, [V].
    """

    def __init__(self, bench: Bench, prompt: tuple[int, ...], count: int) -> None:
        """Read the prompt.

        Args:
            bench: What is measured.
            prompt: Token ids.
            count: Tokens that the answer will have.
        """
        self._model = bench.model()
        policy = bench.manifest.policy
        memory = MemoryPolicy(kv_tokens=len(prompt), answer_tokens=max(16, count + 1))
        chunk = min(_CHUNK, len(prompt) - 2)
        self._memory = StreamMemory(self._model, replace(policy, memory=memory), prompt[:1], chunk)
        for start in range(1, len(prompt) - 1, chunk):
            tokens = prompt[start : min(start + chunk, len(prompt) - 1)]
            self._memory.add_frame(self._model.embed(tokens), np.arange(len(tokens), dtype=np.int64))
        self._plan = self._memory.begin_question(1, remember=False)
        self._done = 0
        self.logits = self._extend(prompt[-1])

    def _extend(self, token: int) -> NDArray[np.float32]:
        logits = self._memory.extend(self._model.embed((token,)), self._plan, self._done)
        self._done += 1
        return logits

    def write(self) -> None:
        """Add a token."""
        self.logits = self._extend(greedy(self.logits))


def agreement(ours: NDArray[np.float32], theirs: NDArray[np.float32], context: int) -> str:
    """Say how far logits [V] of two runtimes are apart, in parts of the largest."""
    apart = np.abs(ours - theirs).max() / np.abs(theirs).max()
    return f"logits after {context} tokens differ by {apart:.1e} of the largest from those of onnxruntime-genai"
