"""The figures of a validation as text, for the terminal and for the report."""

from __future__ import annotations

from stc_export.pipeline.validate_types import Comparison, Conversion, GroupScore, SettingScore
from stc_export.validate.types import Interval

#: What is said of a bundle whose model was never trained.
UNTRAINED = "The weights of this model are random: answers mean nothing."
#: Columns of :func:`setting_cells`.
SETTING_HEADER = ("setting", "right", "against off", "p", "computed", "kept", "ms per frame", "verdict")
#: Columns of :func:`group_cells`.
GROUP_HEADER = ("setting", "group", "n", "right", "against off", "p", "verdict")
#: Columns of :func:`conversion_cells`.
CONVERSION_HEADER = ("setting", "same answer", "bundle against torch", "p", "verdict")


def setting_cells(row: SettingScore) -> tuple[str, ...]:
    """Return a setting's row: accuracy, difference to the baseline, cost."""
    gain, p, verdict = _comparison(row.overall.against_off)
    cost = (f"{row.computed:.0%}", f"{row.kept:.0%}", f"{row.frame_mean_ms:.1f}")
    return (row.name, share_text(row.overall.accuracy), gain, p, *cost, verdict)


def group_cells(row: SettingScore, group: GroupScore) -> tuple[str, ...]:
    """Return the row of a group of questions under a setting."""
    return (row.name, group.name, str(group.accuracy.n), share_text(group.accuracy), *_comparison(group.against_off))


def conversion_cells(row: Conversion) -> tuple[str, ...]:
    """Return the row of a setting that ran in the bundle and in the original model."""
    return (row.name, f"{100 * row.agreement:.1f} %", *_comparison(row.against_original))


def share_text(found: Interval) -> str:
    """Return a share in percent with its interval, e.g. ``91.6 % (90.3 to 92.7)``."""
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def points_text(found: Interval) -> str:
    """Return a difference in percentage points with its interval, e.g. ``-1.4 (-2.6 to -0.3)``."""
    value, low, high = (round(100 * part, 1) + 0.0 for part in (found.value, found.low, found.high))  # no -0.0
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _comparison(found: Comparison | None) -> tuple[str, str, str]:
    if found is None:
        return "", "", "baseline"
    return points_text(found.difference), f"{found.mcnemar_p:.2g}", found.verdict
