"""``stc-export validate``."""

from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from stc_export.cli.options import BundleArgument, JsonFlag, PolicyOption, check_above_zero, check_least, read_policy
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import table
from stc_export.pipeline.validate_fidelity import FIDELITY_HEADER, fidelity_notes, fidelity_rows
from stc_export.pipeline.validate_table import SETTING_HEADER, UNTRAINED, setting_cells
from stc_export.pipeline.validate_types import ValidateRequest, ValidateResult

_LEGEND = (
    "right: with Wilson's 95 % interval; against off: percentage points with the 95 % interval of a paired bootstrap\n"
    "over clips; p: McNemar's exact test; computed: tokens of the ViT; kept: visual tokens that reach the LLM"
)

EXAMPLE = "stc-export validate demo.stc --task demo --sweep pruner.keep=1.0,0.5,0.3 --report out"


def validate(  # noqa: PLR0913 - one parameter per flag
    bundle: BundleArgument,
    *,
    task: Annotated[
        str, typer.Option("--task", metavar="NAME", help="demo: the generated world; fidelity: own videos.")
    ],
    report: Annotated[
        Path, typer.Option("--report", metavar="DIR", help="Folder for the results; continued if begun.")
    ],
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="KEY=A,B,C", help="Values of a key of the policy; can be repeated."),
    ] = None,
    policy: PolicyOption = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Only the first clips.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="N", help="Processes at a time; one per core if not given.")
    ] = None,
    max_runs: Annotated[int, typer.Option("--max-runs", metavar="N", help="Most settings.")] = 64,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Video or folder of videos for task fidelity.")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", metavar="RATE", help="Frames per second to take of videos; the task's own if not given."),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option("--ask", metavar="TEXT", help="Question in place of those of task fidelity; can be repeated."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what settings of a policy cost in accuracy."""
    for flag, value in (("--limit", limit), ("--jobs", jobs), ("--max-runs", max_runs)):
        check_least(flag, value, 1)
    if fps is not None:
        check_above_zero("--fps", fps)
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.validate import validate as validate_bundle

        base = read_policy(policy)
        sweeps, asked = tuple(sweep or ()), tuple(ask or ())
        request = ValidateRequest(bundle, task, report, base, sweeps, limit, max_runs, jobs, data, fps, asked)
        result = validate_bundle(request, make_progress())
    emit(result, result_text(result), as_json=as_json)


def result_text(result: ValidateResult) -> str:
    """Return the comparison for people."""
    title = f"{result.task} on {result.target}: {result.questions} questions about {result.clips} clips"
    rows = [setting_cells(row) for row in result.settings]
    parts = [title, table(SETTING_HEADER, rows, right=(1, 2, 3, 4, 5, 6)), _LEGEND, *_fidelity(result)]
    return "\n\n".join(parts if result.bundle.trained else [*parts, UNTRAINED])


def _fidelity(result: ValidateResult) -> list[str]:
    rows = fidelity_rows(result.settings)
    if not rows:
        return []
    numbers = tuple(range(1, len(FIDELITY_HEADER)))
    return [table(FIDELITY_HEADER, rows, right=numbers), *(fill(note, 118) for note in fidelity_notes(result.settings))]
