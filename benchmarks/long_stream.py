"""Push a long stream through a session, and write down the time of every frame and the memory all along.

    python benchmarks/long_stream.py [--bundle DIR] [--frames 10000] [--threads 1] [--results DIR]

The video is generated and repeats; a question is asked every 250 frames and every second one is remembered. The first
frames fill the memory of the stream and are not compared: after them, the first 1,000 frames stand against the last.
Without --bundle it builds the demo model. Linux only.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stc_export.cli.progress import make_progress
from stc_export.pipeline.bench.record import Environment, command_line, load_average, read_environment
from stc_export.pipeline.bench.video import read_scene
from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest
from stc_export.spec import codec
from stc_export.spec.files import write_file
from stc_export.spec.progress import Progress
from stc_runtime import StreamSession
from stc_runtime.backends.ort import OrtBackend

RESULTS = Path(__file__).resolve().parent / "results"
SCHEMA = "stc.long-stream/1"
SCENE_FRAMES, WARMUP, COMPARED = 96, 300, 1000
MEMORY_EVERY, QUESTION_EVERY = 100, 250


@dataclass(frozen=True)
class LongStream:
    """A result with its evidence.

    Attributes:
        schema: ``stc.long-stream/1``.
        command: What was typed.
        model: Name of the model.
        environment: Where it was measured.
        warmup: Frames before the comparison.
        frame_ms: Time of every frame, warm-up included.
        frame_cpu_ms: Processor time of every frame, which other work on the machine changes less.
        modes: How every frame was encoded, one letter each: f (full), s (selective) or k (skip).
        anonymous_bytes: The process's own memory, every hundred frames from the end of the warm-up on.
        growth: Last of these over the first, minus 1.
        first_ms: Mean time of the first thousand frames after the warm-up.
        last_ms: Mean time of the last thousand.
        first_cpu_ms: Mean processor time of the first thousand.
        last_cpu_ms: Mean processor time of the last thousand.
    """

    schema: str
    command: str
    model: str
    environment: Environment
    warmup: int
    frame_ms: tuple[float, ...]
    frame_cpu_ms: tuple[float, ...]
    modes: str
    anonymous_bytes: tuple[int, ...]
    growth: float
    first_ms: float
    last_ms: float
    first_cpu_ms: float
    last_cpu_ms: float


LETTERS = {"full": "f", "selective": "s", "skip": "k"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle (default: the demo model is built)")
    parser.add_argument("--frames", type=int, default=10_000, help="frames after the warm-up")
    parser.add_argument("--threads", type=int, default=1, help="threads inside an operator")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    options = parser.parse_args(arguments)
    progress = make_progress()
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or run_build(BuildRequest("demo", out=Path(folder) / "demo.stc"), progress).bundle
        record = stream(bundle, options.frames, options.threads, progress)
    write_file(codec.to_json(record).encode(), options.results / f"long-stream-{record.model}.json")
    print(f"memory grew by {record.growth:.2%}")
    print(f"{record.first_ms:.2f} ms per frame at first, {record.last_ms:.2f} at last")
    print(f"{record.first_cpu_ms:.2f} ms of the processor at first, {record.last_cpu_ms:.2f} at last")
    return 0


def stream(bundle: Path, count: int, threads: int, progress: Progress) -> LongStream:
    """Push the frames and ask the questions."""
    frames = read_scene(None, SCENE_FRAMES).frames
    times, spent, modes, memory = list[float](), list[float](), list[str](), list[int]()
    load_before = load_average()
    with (
        StreamSession.open(bundle, backend=OrtBackend(threads=threads)) as session,
        progress.stage("frames", WARMUP + count, "frames") as advance,
    ):
        for number in range(WARMUP + count):
            if number >= WARMUP and (number - WARMUP) % MEMORY_EVERY == 0:
                memory.append(anonymous_bytes())
            start, used = time.perf_counter(), time.process_time()
            report = session.push(frames[number % len(frames)], float(number))
            times.append(round((time.perf_counter() - start) * 1e3, 3))
            spent.append(round((time.process_time() - used) * 1e3, 3))
            modes.append(LETTERS[report.mode])
            if number % QUESTION_EVERY == QUESTION_EVERY - 1:
                list(session.ask("What moves?", max_tokens=4, remember=number // QUESTION_EVERY % 2 == 1))
            advance(1)
        memory.append(anonymous_bytes())
        name = session.manifest.model.name
    compared = min(COMPARED, count // 2)
    return LongStream(
        schema=SCHEMA,
        command=command_line(),
        model=name,
        environment=read_environment(threads, load_before),
        warmup=WARMUP,
        frame_ms=tuple(times),
        frame_cpu_ms=tuple(spent),
        modes="".join(modes),
        anonymous_bytes=tuple(memory),
        growth=round(memory[-1] / memory[0] - 1, 5),
        first_ms=round(float(np.mean(times[WARMUP : WARMUP + compared])), 3),
        last_ms=round(float(np.mean(times[-compared:])), 3),
        first_cpu_ms=round(float(np.mean(spent[WARMUP : WARMUP + compared])), 3),
        last_cpu_ms=round(float(np.mean(spent[-compared:])), 3),
    )


def anonymous_bytes() -> int:
    """Return the memory of this process that is no file's (RssAnon)."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    raise SystemExit(main())
