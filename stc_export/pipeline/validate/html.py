"""The report of a validation: which sections the page has, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from stc_export.pipeline.validate.fidelity import FIDELITY_HEADER, fidelity_notes, fidelity_rows
from stc_export.pipeline.validate.page import Picture, Section, Table, render_page
from stc_export.pipeline.validate.plots import Plot
from stc_export.pipeline.validate.table import (
    BUNDLE_HEADER,
    CHANGE_HEADER,
    CONVERSION_HEADER,
    GROUP_HEADER,
    SETTING_HEADER,
    SETTING_NUMBERS,
    UNTRAINED,
    bundle_cells,
    change_cells,
    conversion_cells,
    energy_text,
    group_cells,
    memory_text,
    official_text,
    setting_rows,
)
from stc_export.pipeline.validate.types import SettingScore, ValidateLatencies, ValidateResult

_METHOD = (
    "Right: share of right answers with Wilson's 95 % interval. Against off: percentage points, with the 95 % interval "
    "of a paired bootstrap that draws whole clips; p is McNemar's exact test. Neither is corrected for the number of "
    "settings. Computed: tokens of the vision transformer. Kept: visual tokens that reach the language model. On the "
    "front: no other setting is at least as accurate and takes as little mean time per frame, and is better in one of "
    "the two; neither quantity's uncertainty is considered."
)
_PLOTS = (
    "Numbers are those of the table. The line is the best accuracy to be had at a cost; the dotted one is that of no "
    "compression. The bars are intervals of each setting by itself: whether two settings differ is better told by "
    "the paired comparison in the table."
)
_FRAMES = "Streamed again after the measurements, to show what a setting does; no figure of this page comes from it."
_COST = (
    "Frames per second: what one process took in, questions aside. First token: from a question to the first token of "
    "its answer, milliseconds. Peak memory: largest resident size of a process that watched clips."
)
_BUNDLES = (
    "The same policy in another bundle, as in another precision, against the first bundle; percentage points with the "
    "95 % interval of a paired bootstrap that draws whole clips."
)
#: By where the processes ran.
_WHERE: Mapping[str, str] = {"local": "on one machine", "ray": "on a Ray cluster, whose machines may differ"}


def html_report(result: ValidateResult, plots: Sequence[Plot] = (), frames: Sequence[Picture] = ()) -> str:
    """Return the report as one HTML file.

    Args:
        result: What was measured.
        plots: What :func:`stc_export.pipeline.validate.plots.draw_plots` drew of it.
        frames: Frames with what was computed and kept.
    """
    sections = (
        _settings(result),
        _official(result),
        _failures(result),
        _plots(plots),
        _fidelity(result),
        *_conversions(result),
        *_bundles(result),
        _frames(frames),
        _groups(result),
        _cost(result),
        _latency(result),
        _environment(result),
    )
    shown = [one for one in sections if one.tables or one.pictures]
    return render_page(f"{result.bundle.model} on {result.task}", shown)


def _settings(result: ValidateResult) -> Section:
    about = f"{result.questions} questions about {result.clips} clips, target {result.target}, scorer {result.scorer}."
    trained = () if result.bundle.trained else (UNTRAINED,)
    table = Table(SETTING_HEADER, tuple(setting_rows(result.settings)), SETTING_NUMBERS)
    return Section("Settings", (about, *trained, *result.notes, _METHOD), (table,))


def _official(result: ValidateResult) -> Section:
    rows = tuple((row.name, official_text(row.official)) for row in result.settings if row.official is not None)
    tables = (Table(("setting", "figure"), rows),) if rows else ()
    return Section("As the benchmark reports it", tables=tables)


def _failures(result: ValidateResult) -> Section:
    rows = tuple((one.clip, one.setting, one.problem) for one in result.failures)
    tables = (Table(("clip", "setting", "problem"), rows),) if rows else ()
    return Section("Not watched, and counted nowhere", tables=tables)


def _fidelity(result: ValidateResult) -> Section:
    rows = tuple(fidelity_rows(result.settings))
    tables = (Table(FIDELITY_HEADER, rows, tuple(range(1, len(FIDELITY_HEADER)))),) if rows else ()
    return Section("Fidelity", tuple(fidelity_notes(result.settings)), tables)


def _plots(plots: Sequence[Plot]) -> Section:
    pictures = tuple(Picture(f"{plot.title}; the same in {plot.name}", plot.png) for plot in plots)
    return Section("Accuracy and cost", (_PLOTS,), pictures=pictures)


def _frames(frames: Sequence[Picture]) -> Section:
    return Section("Frames", (_FRAMES,), pictures=tuple(frames))


def _groups(result: ValidateResult) -> Section:
    rows = tuple(group_cells(row, group) for row in result.settings for group in row.groups)
    return Section("Groups of questions", tables=(Table(GROUP_HEADER, rows, (2, 3, 4, 5)),))


def _cost(result: ValidateResult) -> Section:
    header = ("setting", "frames per second", "first token, p50", "first token, p95", "peak memory")
    rows = tuple(_cost_cells(row) for row in result.settings)
    return Section("Cost", (_COST, energy_text(result.energy)), (Table(header, rows, (1, 2, 3, 4)),))


def _cost_cells(row: SettingScore) -> tuple[str, ...]:
    first = row.latency_ms.first_token
    times = (f"{first.p50:.1f}", f"{first.p95:.1f}") if first.n else ("", "")
    return (row.name, f"{row.frames_per_second:.1f}", *times, memory_text(row.peak_rss_bytes))


def _latency(result: ValidateResult) -> Section:
    rows = tuple(cells for row in result.settings for cells in _latency_cells(row))
    table = Table(("setting", "stage", "p50", "p95", "n"), rows, (2, 3, 4))
    about = f"Milliseconds; {result.jobs} processes at a time, each with one thread, {_WHERE[result.workers]}."
    return Section("Latency", (about,), (table,))


def _conversions(result: ValidateResult) -> tuple[Section, ...]:
    if result.original is None:
        return ()
    one = result.original
    versions = f"attention {one.attention}, PyTorch {one.torch}, transformers {one.transformers}"
    about = f"{one.model} in transformers: {versions}; SHA-256 {one.sha256}."
    table = Table(CONVERSION_HEADER, tuple(conversion_cells(row) for row in result.conversions), (1, 2, 3))
    return (Section("Bundle against the original model", (about,), (table,)),)


def _bundles(result: ValidateResult) -> tuple[Section, ...]:
    if not result.bundles:
        return ()
    tables = (
        Table(BUNDLE_HEADER, tuple(bundle_cells(row) for row in result.bundles), (4,)),
        Table(CHANGE_HEADER, tuple(change_cells(row) for row in result.changes), (1, 2, 3)),
    )
    return (Section("Bundles", (_BUNDLES,), tables),)


def _latency_cells(row: SettingScore) -> list[tuple[str, ...]]:
    stages = [(field.name, getattr(row.latency_ms, field.name)) for field in fields(ValidateLatencies)]
    return [
        (row.name, name.replace("_", " "), f"{stage.p50:.2f}", f"{stage.p95:.2f}", str(stage.n))
        for name, stage in stages
        if stage.n
    ]


def _environment(result: ValidateResult) -> Section:
    bundle, environment = result.bundle, result.environment
    own = (
        ("command", result.command),
        ("manifest, SHA-256", bundle.manifest_sha256),
        ("precision", bundle.precision),
    )
    read = [(field.name.replace("_", " "), getattr(environment, field.name)) for field in fields(environment)]
    told = tuple((name, str(value)) for name, value in read if value is not None)
    return Section("Environment", tables=(Table(("what", "value"), own + told),))
