"""``stc-export validate``."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from stc_export.cli.options import BundlePolicyOption, JsonFlag, check_above_zero, check_least, read_bundle_policy
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import one_line, table
from stc_export.pipeline.validate.fidelity import FIDELITY_HEADER, fidelity_notes, fidelity_rows
from stc_export.pipeline.validate.table import (
    BUNDLE_HEADER,
    CHANGE_HEADER,
    CONVERSION_HEADER,
    SETTING_HEADER,
    SETTING_NUMBERS,
    UNTRAINED,
    bundle_cells,
    change_cells,
    conversion_cells,
    official_lines,
    setting_rows,
)
from stc_export.pipeline.validate.types import RescoreRequest, ValidateRequest, ValidateResult
from stc_export.spec.errors import UsageError

_LEGEND = (
    "right: with Wilson's 95 % interval; against off: percentage points with the 95 % interval of a paired bootstrap\n"
    "over clips; p: McNemar's exact test; computed: tokens of the ViT; kept: visual tokens that reach the LLM;\n"
    "on the front: no other setting is at least as accurate and as fast per frame, and better in one of the two"
)

#: Failed clips that are listed.
_SHOWN = 10

EXAMPLE = "stc-export validate demo.stc --task demo --sweep pruner.keep=1.0,0.5,0.3 --report out"


def validate(  # noqa: PLR0913 - one parameter per flag
    bundle: Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="Directory that build wrote.")] = None,
    *,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="NAME", help="demo, fidelity (own videos), or one of docs/validate.md."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Folder for the results; continued if begun.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="KEY=A,B,C", help="Values of a key of the policy; can be repeated."),
    ] = None,
    policy: BundlePolicyOption = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Only the first clips.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="N", help="Processes at a time; one per core if not given.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Ray cluster that does the work: HOST:PORT or auto.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option("--beside", metavar="BUNDLE", help="Every setting in this bundle, too; can be repeated."),
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
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Folder with the files of the task; or one video.")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", metavar="RATE", help="Frames per second to take of videos; the task's own if not given."),
    ] = None,
    scorer: Annotated[
        str | None,
        typer.Option("--scorer", metavar="NAME", help="How answers are judged; the task's own if not given."),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option("--ask", metavar="TEXT", help="Question in place of those of task fidelity; can be repeated."),
    ] = None,
    rescore: Annotated[
        Path | None,
        typer.Option("--rescore", metavar="DIR", help="Judge the answers of this folder again, with --scorer alone."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure what settings of a policy cost in accuracy."""
    for flag, value in (("--limit", limit), ("--jobs", jobs), ("--max-runs", max_runs)):
        check_least(flag, value, 1)
    if fps is not None:
        check_above_zero("--fps", fps)
    base = read_bundle_policy(policy, bundle)
    with reserved_stdout(as_json=as_json):
        if rescore is not None:
            result = _rescore(rescore, scorer, {"BUNDLE": bundle, "--task": task, "--report": report, "--data": data})
        else:
            from stc_export.pipeline.validate.run import validate as validate_bundle

            request = ValidateRequest(
                *_needed(bundle, task, report),
                policy=base,
                sweep=tuple(sweep or ()),
                limit=limit,
                max_runs=max_runs,
                jobs=jobs,
                ray=ray,
                reference=reference,
                model=model,
                attention=attention,
                data=data,
                fps=fps,
                scorer=scorer,
                ask=tuple(ask or ()),
                beside=tuple(beside or ()),
            )
            result = validate_bundle(request, make_progress())
    emit(result, result_text(result), as_json=as_json)
    if result.failures:
        raise typer.Exit(1)


def _needed(bundle: Path | None, task: str | None, report: Path | None) -> tuple[Path, str, Path]:
    if bundle is None or task is None or report is None:
        given = {"argument 'BUNDLE'": bundle, "option '--task'": task, "option '--report'": report}
        missing = next(name for name, value in given.items() if value is None)
        raise UsageError(f"Missing {missing}.", "See stc-export validate --help.")
    return bundle, task, report


def _rescore(folder: Path, scorer: str | None, others: Mapping[str, Path | str | None]) -> ValidateResult:
    from stc_export.pipeline.validate.rescore import rescore

    given = [name for name, value in others.items() if value is not None]
    if given or scorer is None:
        found = f"with {', '.join(given)}" if given else "without --scorer"
        raise UsageError(
            f"--rescore was given {found}; it needs its folder and --scorer, and nothing else.",
            f"Write for example stc-export validate --rescore {folder} --scorer letter.",
        )
    return rescore(RescoreRequest(folder, scorer), make_progress())


def result_text(result: ValidateResult) -> str:
    """Return the comparison for people."""
    title = f"{result.task} on {result.target}: {result.questions} questions about {result.clips} clips"
    rows = setting_rows(result.settings)
    parts = [title, table(SETTING_HEADER, rows, right=SETTING_NUMBERS), *_official(result), _LEGEND]
    parts += [*_fidelity(result), *_conversions(result), *_bundles(result), *result.notes, *_failures(result)]
    return "\n\n".join(parts if result.bundle.trained else [*parts, UNTRAINED])


def _fidelity(result: ValidateResult) -> list[str]:
    rows = fidelity_rows(result.settings)
    if not rows:
        return []
    numbers = tuple(range(1, len(FIDELITY_HEADER)))
    return [table(FIDELITY_HEADER, rows, right=numbers), *(fill(note, 118) for note in fidelity_notes(result.settings))]


def _conversions(result: ValidateResult) -> list[str]:
    if result.original is None:
        return []
    rows = [conversion_cells(row) for row in result.conversions]
    told = f"the bundle against {result.original.model} in transformers, same policy:"
    return [told, table(CONVERSION_HEADER, rows, right=(1, 2, 3))]


def _bundles(result: ValidateResult) -> list[str]:
    if not result.bundles:
        return []
    bundles = [tuple(one_line(cell) for cell in bundle_cells(row)) for row in result.bundles]
    changes = [change_cells(row) for row in result.changes]
    return [
        table(BUNDLE_HEADER, bundles, right=(4,)),
        "every bundle against the first, same policy:",
        table(CHANGE_HEADER, changes, right=(1, 2, 3)),
    ]


def _official(result: ValidateResult) -> list[str]:
    lines = official_lines(result.settings)
    return ["\n".join(["as the benchmark reports it", *lines])] if lines else []


def _failures(result: ValidateResult) -> list[str]:
    if not result.failures:
        return []
    lines = [f"  {one_line(row.clip)} under {row.setting}: {one_line(row.problem)}" for row in result.failures[:_SHOWN]]
    more = [f"  and {len(result.failures) - _SHOWN} more, in summary.json"] if len(result.failures) > _SHOWN else []
    title = f"not watched and counted nowhere: {len(result.failures)}; the same command tries again"
    return ["\n".join([title, *lines, *more])]
