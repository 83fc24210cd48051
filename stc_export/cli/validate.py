"""``stc-export validate``."""

from pathlib import Path
from typing import Annotated

import typer

from stc_export.cli.options import BundleArgument, JsonFlag, PolicyOption, check_least, read_policy
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import table
from stc_export.pipeline.validate_table import SETTING_HEADER, SETTING_NUMBERS, UNTRAINED, setting_rows
from stc_export.pipeline.validate_types import ValidateRequest, ValidateResult

_LEGEND = (
    "right: with Wilson's 95 % interval; against off: percentage points with the 95 % interval of a paired bootstrap\n"
    "over clips; p: McNemar's exact test; computed: tokens of the ViT; kept: visual tokens that reach the LLM;\n"
    "on the front: no other setting is at least as accurate and as fast per frame, and better in one of the two"
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
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Ray cluster that does the work: HOST:PORT or auto.")
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
        request = ValidateRequest(bundle, task, report, base, tuple(sweep or ()), limit, max_runs, jobs, ray)
        result = validate_bundle(request, make_progress())
    emit(result, result_text(result), as_json=as_json)


def result_text(result: ValidateResult) -> str:
    """Return the comparison for people."""
    title = f"{result.task} on {result.target}: {result.questions} questions about {result.clips} clips"
    rows = setting_rows(result.settings)
    trained = "" if result.bundle.trained else f"\n\n{UNTRAINED}"
    return f"{title}\n\n{table(SETTING_HEADER, rows, right=SETTING_NUMBERS)}\n\n{_LEGEND}{trained}"
