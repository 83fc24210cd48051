"""The report of a validation as one HTML file that needs nothing else: no script, no picture, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape

from stc_export.pipeline.validate_table import (
    CONVERSION_HEADER,
    GROUP_HEADER,
    SETTING_HEADER,
    UNTRAINED,
    conversion_cells,
    group_cells,
    setting_cells,
)
from stc_export.pipeline.validate_types import SettingScore, ValidateLatencies, ValidateResult

_STYLE = (
    "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}th,td{border:1px solid #ccc;padding:.25em .6em;text-align:left}"
    "th{background:#f2f2f2}"
)
_METHOD = (
    "Right: share of right answers with Wilson's 95 % interval. Against off: percentage points, with the 95 % interval "
    "of a paired bootstrap that draws whole clips; p is McNemar's exact test. Neither is corrected for the number of "
    "settings. Computed: tokens of the vision transformer. Kept: visual tokens that reach the language model."
)


def html_report(result: ValidateResult) -> str:
    """Return the report; whatever comes from names and machines is escaped."""
    title = f"{result.bundle.model} on {result.task}"
    trained = [] if result.bundle.trained else [_paragraph(UNTRAINED)]
    groups = [group_cells(row, group) for row in result.settings for group in row.groups]
    latencies = [cells for row in result.settings for cells in _latency_cells(row)]
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
            _paragraph(f"{result.questions} questions about {result.clips} clips, target {result.target}."),
            *trained,
            _table(SETTING_HEADER, [setting_cells(row) for row in result.settings]),
            _paragraph(_METHOD),
            *_conversions(result),
            "<h2>Groups of questions</h2>",
            _table(GROUP_HEADER, groups),
            "<h2>Latency</h2>",
            _paragraph(f"Milliseconds; {result.jobs} processes at a time, each with one thread."),
            _table(("setting", "stage", "p50", "p95", "n"), latencies),
            "<h2>Environment</h2>",
            _table(("", ""), _environment_cells(result)),
            "</body></html>\n",
        ]
    )


def _conversions(result: ValidateResult) -> list[str]:
    if result.original is None:
        return []
    one = result.original
    versions = f"attention {one.attention}, PyTorch {one.torch}, transformers {one.transformers}"
    return [
        "<h2>Bundle against the original model</h2>",
        _paragraph(f"{one.model} in transformers: {versions}; SHA-256 {one.sha256}."),
        _table(CONVERSION_HEADER, [conversion_cells(row) for row in result.conversions]),
    ]


def _latency_cells(row: SettingScore) -> list[tuple[str, ...]]:
    stages = [(field.name, getattr(row.latency_ms, field.name)) for field in fields(ValidateLatencies)]
    return [
        (row.name, name.replace("_", " "), f"{stage.p50:.2f}", f"{stage.p95:.2f}", str(stage.n))
        for name, stage in stages
        if stage.n
    ]


def _environment_cells(result: ValidateResult) -> list[tuple[str, str]]:
    bundle, environment = result.bundle, result.environment
    own = [
        ("command", result.command),
        ("manifest, SHA-256", bundle.manifest_sha256),
        ("precision", bundle.precision),
    ]
    read = [(field.name.replace("_", " "), getattr(environment, field.name)) for field in fields(environment)]
    return own + [(name, str(value)) for name, value in read if value is not None]


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row("th", header), *(_row("td", row) for row in rows)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
