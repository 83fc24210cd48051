"""``stc-export bench``."""

from pathlib import Path
from typing import Annotated

import typer

from stc_export.cli.options import BundleArgument, JsonFlag, ThreadsOption, check_least
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import table
from stc_export.pipeline.types import BenchRequest, BenchResult

EXAMPLE = "stc-export bench demo.stc --frames 32 --out bench.json"


def bench(  # noqa: PLR0913 - one parameter per flag
    bundle: BundleArgument,
    video: Annotated[Path | None, typer.Argument(metavar="[VIDEO]", help="A generated video if not given.")] = None,
    *,
    frames: Annotated[int, typer.Option("--frames", metavar="N", help="Frames of each measurement.")] = 32,
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Times each is repeated.")] = 3,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result with raw samples and environment.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what the compression saves against baselines."""
    check_least("--frames", frames, 2)
    check_least("--repeats", repeats, 1)
    check_least("--threads", threads, 1)
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.bench.run import bench as bench_bundle

        request = BenchRequest(bundle, video, frames, repeats, threads, out)
        progress = make_progress()
        result = bench_bundle(request, progress)
        if out is not None:
            progress.note(f"written: {out}")
    emit(result, result_text(result), as_json=as_json)


def result_text(result: BenchResult) -> str:
    """Return the measurements for people."""
    rows = [
        (
            row.stage,
            f"{row.p50_ms:.2f}",
            row.baseline,
            f"{row.baseline_p50_ms:.2f}",
            f"{row.ratio:.2f}x",
            "-" if row.bound is None else f"{row.bound:.2f}x",
            str(row.n),
        )
        for row in result.rows
    ]
    header = ("stage", "p50 ms", "baseline", "p50 ms", "faster", "bound", "n")
    notes = "".join(f"\n\n{note}" for note in result.notes)
    return f"{result.bundle} on {result.target}\n\n" + table(header, rows, right=(1, 3, 4, 5, 6)) + notes
