"""``stc-export run``."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from stc_export.cli.options import (
    BundleArgument,
    BundlePolicyOption,
    JsonFlag,
    ThreadsOption,
    check_above_zero,
    check_least,
    read_bundle_policy,
)
from stc_export.cli.output import emit, reserved_stdout, tell, write
from stc_export.cli.progress import BarProgress, LineProgress, make_progress
from stc_export.cli.text import bytes_text, facts, table, without_controls
from stc_export.pipeline.types import Question, RunRequest, RunResult
from stc_export.spec.errors import UsageError
from stc_export.spec.footage import SILENCE_S, is_address
from stc_export.spec.report import CameraReport

EXAMPLE = 'stc-export run demo.stc video.mp4 --ask "What is on the table?" --at 12.5'


def run(  # noqa: PLR0913 - one parameter per flag
    bundle: BundleArgument,
    video: Annotated[
        str, typer.Argument(metavar="VIDEO", help="A video file, a pipe, /dev/video0, or an address such as rtsp://...")
    ],
    *,
    ask: Annotated[list[str], typer.Option("--ask", metavar="TEXT", help="A question; can be repeated.")],
    at: Annotated[
        list[float] | None,
        typer.Option("--at", metavar="SECONDS", help="Time of the question; the end of the video if not given."),
    ] = None,
    policy: BundlePolicyOption = None,
    fps: Annotated[float, typer.Option("--fps", help="Frames taken per second of video.")] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Longest answer.")] = 64,
    top_p: Annotated[float, typer.Option("--top-p", help="0: greedy; else the share to sample from.")] = 0.0,
    temperature: Annotated[float, typer.Option("--temperature", help="Divides the logits when sampling.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed for sampling.")] = 0,
    threads: ThreadsOption = None,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="Draw which tokens were recomputed and kept, as PNG."),
    ] = None,
    until: Annotated[
        float | None, typer.Option("--until", metavar="SECONDS", help="Stop at this time of the video.")
    ] = None,
    camera: Annotated[
        float | None,
        typer.Option(
            "--camera",
            metavar="SECONDS",
            help="VIDEO is a camera, which may be away for so long: times are those of the clock, and frames that come "
            "faster than they are processed are dropped.",
        ),
    ] = None,
    silence: Annotated[
        float, typer.Option("--silence", metavar="SECONDS", help="An address or pipe without data for so long is away.")
    ] = SILENCE_S,
    as_json: JsonFlag = False,
) -> None:
    """Play a video through a bundle and answer questions about it."""
    _check(fps, max_tokens, top_p, temperature, threads)
    _check_times(until, camera, silence)
    with reserved_stdout(as_json=as_json):
        request = RunRequest(
            bundle=bundle,
            video=video if is_address(video) else Path(video),
            questions=pair_questions(ask, at or []),
            policy=read_bundle_policy(policy, bundle),
            fps=fps,
            max_tokens=max_tokens,
            seed=seed,
            top_p=top_p,
            temperature=temperature,
            threads=threads,
            picture=picture,
            until_s=math.inf if until is None else until,
            silence_s=silence,
            away_s=camera,
        )
        from stc_export.pipeline.run import run as run_bundle

        progress = make_progress()
        printer = AnswerPrinter(progress)
        result = run_bundle(request, progress, _ignore_piece if as_json else printer.piece)
    if as_json:
        emit(result, "", as_json=True)
    else:
        printer.finish()
        tell(summary_text(result))
    if not result.trained:
        tell("The weights of this model are random: answers mean nothing.")


def pair_questions(ask: list[str], at: list[float]) -> tuple[Question, ...]:
    """Give the n-th question the n-th time; questions without a time are asked at the end.

    Args:
        ask: Texts in the order given.
        at: Times in seconds in the order given.

    Raises:
        UsageError: More times than questions, or a time below zero.
    """
    if len(at) > len(ask):
        raise UsageError(f"--at appears {len(at)}x but --ask only {len(ask)}x.", "Give each --at its --ask, in order.")
    for seconds in at:
        check_least("--at", seconds, 0)
    times = [*at, *[None] * (len(ask) - len(at))]
    return tuple(Question(text, seconds) for text, seconds in zip(ask, times, strict=True))


class AnswerPrinter:
    """Writes answers to stdout as they come, each below its question.

    Args:
        progress: Bars that share the terminal and have to make room.
    """

    def __init__(self, progress: BarProgress | LineProgress) -> None:
        self._progress = progress
        self._current: Question | None = None

    def piece(self, question: Question, at_s: float, text: str) -> None:
        """Write a piece of an answer."""
        if sys.stdout.isatty():
            self._progress.clear()
        if question is not self._current:
            self.finish()
            self._current = question
            write(f"[{at_s:.1f} s] {without_controls(question.text)}\n")
        write(without_controls(text))

    def finish(self) -> None:
        """End the line of the last answer."""
        if self._current is not None:
            write("\n")
            self._current = None


def summary_text(result: RunResult) -> str:
    """Return what a run cost, for people."""
    frames, tokens, memory = result.frames, result.tokens, result.memory_bytes
    share = f" ({tokens.visual_kept / tokens.visual_before:.0%})" if tokens.visual_before else ""
    stages = result.latency_ms
    latencies = [
        ("gate", stages.gate),
        ("vit full", stages.vit_full),
        ("vit selective", stages.vit_selective),
        ("pruner", stages.pruner),
        ("prefill", stages.prefill),
        ("decode", stages.decode),
    ]
    counts = f"{frames.total}: {frames.full} full, {frames.selective} selective, {frames.skip} skipped"
    rows = [(name, f"{row.p50:.1f}", f"{row.p95:.1f}", str(row.n)) for name, row in latencies if row.n]
    first = [(f"[{a.at_s:.1f} s]", f"{a.ttft_ms:.0f} ms to the first of {a.tokens} tokens") for a in result.answers]
    held = f"{bytes_text(memory.feature_cache)} feature cache, {bytes_text(memory.kv)} KV"
    rest = [
        ("frames", counts),
        ("visual tokens", f"{tokens.visual_kept} of {tokens.visual_before} kept{share}"),
        ("memory", f"{held}, {bytes_text(memory.peak_rss)} peak of the process"),
        ("target", result.target),
        *_camera_rows(result.camera),
    ]
    return "\n" + facts([*first, *rest]) + "\n\n" + table(("stage", "p50 ms", "p95 ms", "n"), rows, right=(1, 2, 3))


def _camera_rows(camera: CameraReport | None) -> list[tuple[str, str]]:
    if camera is None:
        return []
    return [("camera", f"away {camera.gaps}x, {camera.away_s:.1f} s in all; {camera.dropped} frames dropped")]


def _check(fps: float, max_tokens: int, top_p: float, temperature: float, threads: int | None) -> None:
    check_above_zero("--fps", fps)
    check_least("--max-tokens", max_tokens, 1)
    check_above_zero("--temperature", temperature)
    check_least("--threads", threads, 1)
    if not 0.0 <= top_p <= 1.0:
        raise UsageError(f"--top-p is {top_p:g}, expected a number from 0 to 1.", "Give 0 for greedy answers, or 0.9.")


def _check_times(until: float | None, camera: float | None, silence: float) -> None:
    if until is not None:
        check_above_zero("--until", until)
    if camera is not None:
        check_least("--camera", camera, 0)
    check_above_zero("--silence", silence)


def _ignore_piece(_question: Question, _at_s: float, _text: str) -> None:
    """With --json the answers are in the document."""
