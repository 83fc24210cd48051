"""``stc-export check``."""

from typing import Annotated

import typer

from stc_export.cli.options import BundleArgument, JsonFlag
from stc_export.cli.output import emit, reserved_stdout
from stc_export.cli.progress import make_progress
from stc_export.cli.text import facts, one_line
from stc_export.pipeline.types import CheckedRelease, CheckResult

EXAMPLE = "stc-export check demo.stc --target jetson"

#: Places that a finding shows.
_SHOWN = 4


def check(
    bundle: BundleArgument,
    *,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="Another target than it was built for.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Find what a target cannot run, or not fast, without the device."""
    with reserved_stdout(as_json=as_json):
        from stc_export.pipeline.check_target import check_target

        result = check_target(bundle, target, make_progress())
    emit(result, result_text(result), as_json=as_json)
    if not result.ok:
        raise typer.Exit(1)


def result_text(result: CheckResult) -> str:
    """Return the findings for people: those that differ only in their place are told once."""
    groups: dict[tuple[str, ...], list[CheckedRelease]] = {}
    for row in result.findings:
        found = row.finding
        groups.setdefault((found.level, found.rule, found.graph, found.problem, found.fix, *row.releases), []).append(
            row
        )
    parts = [_group(rows, result.releases) for rows in groups.values()]
    parts.append(facts([("target", result.target), ("checked for", ", ".join(result.releases))]))
    parts.append(_verdict(result))
    return "\n\n".join(parts)


def _group(rows: list[CheckedRelease], all_releases: tuple[str, ...]) -> str:
    found = rows[0].finding
    where = f"{found.graph}: " if found.graph else ""
    places = [place for place in dict.fromkeys(_place(row) for row in rows) if place]
    lines = [f"{found.level} ({found.rule}): {where}{one_line(found.problem)}"]
    if places:
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        lines.append(f"  at   {', '.join(places[:_SHOWN])}{more}")
    if rows[0].releases != all_releases:
        lines.append(f"  with {', '.join(rows[0].releases)}")
    lines.append(f"  fix  {one_line(found.fix)}")
    return "\n".join(lines)


def _place(row: CheckedRelease) -> str:
    found = row.finding
    if not found.node:
        return ""
    return one_line(f"{found.module} ({found.node})" if found.module else found.node)


def _verdict(result: CheckResult) -> str:
    errors = sum(row.finding.level == "error" for row in result.findings)
    slow = len(result.findings) - errors
    if errors:
        return f"{errors} errors: {result.target} cannot run this bundle."
    if slow:
        return f"No errors; {slow} places are slower than they could be."
    return f"Nothing was found against running this bundle on {result.target}."
