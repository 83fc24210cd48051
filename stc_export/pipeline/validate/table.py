"""The figures of a validation as text, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stc_export.pipeline.validate.costs import LATENCY, front
from stc_export.pipeline.validate.types import (
    BundleChange,
    Comparison,
    Conversion,
    GroupScore,
    SettingScore,
    ValidatedBundle,
)
from stc_export.validate.averages import Official, Rule
from stc_export.validate.meter import Energy
from stc_export.validate.types import Interval

#: What is said of a bundle whose model was never trained.
UNTRAINED = "The weights of this model are random: answers mean nothing."
_RULES: Mapping[Rule, str] = {
    "questions": "share of the questions",
    "tasks": "mean of the tasks",
    "groups": "mean of the groups, each the mean of its tasks",
}
#: Columns of :func:`setting_rows`, and those with numbers.
SETTING_HEADER = (
    *("#", "setting", "right", "against off", "p", "computed", "kept", "ms per frame", "on the front", "verdict"),
)
SETTING_NUMBERS = (0, 2, 3, 4, 5, 6, 7)
#: Columns of :func:`group_cells`.
GROUP_HEADER = ("setting", "group", "n", "right", "against off", "p", "verdict")
#: Columns of :func:`conversion_cells`.
CONVERSION_HEADER = ("setting", "same answer", "bundle against torch", "p", "verdict")
#: Columns of :func:`bundle_cells` and :func:`change_cells`.
BUNDLE_HEADER = ("bundle", "directory", "model", "precision", "weights")
CHANGE_HEADER = ("setting", "same answer", "against the first", "p", "verdict")


def setting_rows(rows: Sequence[SettingScore]) -> list[tuple[str, ...]]:
    """Return a row for each setting: accuracy, difference to the baseline, cost, and whether it is on the front.

    The front is that of accuracy and mean time per frame.
    """
    best = front(rows, LATENCY)
    return [_setting_cells(number, row, is_best=best[number]) for number, row in enumerate(rows)]


def _setting_cells(number: int, row: SettingScore, *, is_best: bool) -> tuple[str, ...]:
    gain, p, verdict = _comparison(row.overall.against_off)
    cost = (f"{row.computed:.0%}", f"{row.kept:.0%}", f"{row.frame_mean_ms:.1f}")
    place = "yes" if is_best else "no"
    return (str(number), row.name, share_text(row.overall.accuracy), gain, p, *cost, place, verdict)


def group_cells(row: SettingScore, group: GroupScore) -> tuple[str, ...]:
    """Return the row of a group of questions under a setting."""
    return (row.name, group.name, str(group.accuracy.n), share_text(group.accuracy), *_comparison(group.against_off))


def official_lines(rows: Sequence[SettingScore]) -> list[str]:
    """Return a line per setting with the figure that the benchmark itself reports; none where it has none."""
    return [f"{row.name}: {official_text(row.official)}" for row in rows if row.official is not None]


def official_text(found: Official) -> str:
    """Return the figure that a benchmark reports, with its parts."""
    parts = ", ".join(f"{part.name} {100 * part.value:.1f}" for part in found.parts)
    return f"{100 * found.value:.1f} % as {_RULES[found.rule]} ({parts})"


def conversion_cells(row: Conversion) -> tuple[str, ...]:
    """Return the row of a setting that ran in the bundle and in the original model."""
    return (row.name, f"{100 * row.agreement:.1f} %", *_comparison(row.against_original))


def bundle_cells(row: ValidatedBundle) -> tuple[str, ...]:
    """Return the row of one of several bundles."""
    return (row.label or "the first", row.name, row.model, row.precision, f"{row.weights_bytes / 1e6:,.1f} MB")


def change_cells(row: BundleChange) -> tuple[str, ...]:
    """Return the row of a setting that ran in another bundle and in the first."""
    return (row.name, f"{100 * row.agreement:.1f} %", *_comparison(row.against_first))


def share_text(found: Interval) -> str:
    """Return a share in percent with its interval, e.g. ``91.6 % (90.3 to 92.7)``."""
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def points_text(found: Interval) -> str:
    """Return a difference in percentage points with its interval, e.g. ``-1.4 (-2.6 to -0.3)``."""
    value, low, high = (round(100 * part, 1) + 0.0 for part in (found.value, found.low, found.high))  # no -0.0
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def memory_text(size: int | None) -> str:
    """Return a size in memory, e.g. ``312 MB``; empty where it is not known."""
    return "" if size is None else f"{size / 1e6:,.0f} MB"


def energy_text(energy: Energy) -> str:
    """Return what is known of the energy, as a sentence."""
    if energy.joules is None:
        return f"Energy: not measured; {energy.reason}."
    return (
        f"Energy of the processors while {energy.clips} clips were streamed, with everything else that ran on the "
        f"machine: {energy.joules:,.1f} J."
    )


def _comparison(found: Comparison | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", "baseline"
    return points_text(found.difference), f"{found.mcnemar_p:.2g}", found.verdict
