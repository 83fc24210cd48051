"""``stc-export validate``."""

from pathlib import Path
from typing import Annotated

import typer

from stc_export.cli.options import BundleArgument, JsonFlag, PolicyOption, check_least, read_policy
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import table
from stc_export.pipeline.validate_table import (
    CONVERSION_HEADER,
    SETTING_HEADER,
    UNTRAINED,
    conversion_cells,
    setting_cells,
)
from stc_export.pipeline.validate_types import ValidateRequest, ValidateResult

_LEGEND = (
    "right: with Wilson's 95 % interval; against off: percentage points with the 95 % interval of a paired bootstrap\n"
    "over clips; p: McNemar's exact test; computed: tokens of the ViT; kept: visual tokens that reach the LLM"
)

EXAMPLE = "stc-export validate demo.stc --task demo --sweep pruner.keep=1.0,0.5,0.3 --report out"


def validate(  # noqa: PLR0913 - one parameter per flag
    bundle: BundleArgument,
    *,
    task: Annotated[str, typer.Option("--task", metavar="NAME", help="demo: the test set of the generated world.")],
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
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="NAME", help="torch: every setting in the original model, too."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The original model, if the bundle does not say.")
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option("--attention", metavar="NAME", help="Of the original model: eager, sdpa, flash_attention_2."),
    ] = None,
    max_runs: Annotated[int, typer.Option("--max-runs", metavar="N", help="Most settings.")] = 64,
    as_json: JsonFlag = False,
) -> None:
    """Measure what settings of a policy cost in accuracy."""
    for flag, value in (("--limit", limit), ("--jobs", jobs), ("--max-runs", max_runs)):
        check_least(flag, value, 1)
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.validate import validate as validate_bundle

        base = read_policy(policy)
        sweeps = tuple(sweep or ())
        request = ValidateRequest(
            bundle, task, report, base, sweeps, limit, max_runs, jobs, reference, model, attention
        )
        result = validate_bundle(request, make_progress())
    emit(result, result_text(result), as_json=as_json)


def result_text(result: ValidateResult) -> str:
    """Return the comparison for people."""
    title = f"{result.task} on {result.target}: {result.questions} questions about {result.clips} clips"
    rows = [setting_cells(row) for row in result.settings]
    trained = "" if result.bundle.trained else f"\n\n{UNTRAINED}"
    settings = table(SETTING_HEADER, rows, right=(1, 2, 3, 4, 5, 6))
    return f"{title}\n\n{settings}\n\n{_LEGEND}{_conversion_text(result)}{trained}"


def _conversion_text(result: ValidateResult) -> str:
    if result.original is None:
        return ""
    rows = [conversion_cells(row) for row in result.conversions]
    told = f"the bundle against {result.original.model} in transformers, same policy:"
    return f"\n\n{told}\n\n{table(CONVERSION_HEADER, rows, right=(1, 2, 3))}"
