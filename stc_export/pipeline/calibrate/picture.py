"""The picture of a search: what each candidate kept of the answers against what it cost."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from stc_export.spec.tuning import TriedPolicy, TuningRecord

# Of Okabe and Ito's palette, as in the plots of a validation.
_FRONT, _OTHER, _CHOSEN, _BASELINE = "#0072B2", "#E69F00", "#009E73", "#000000"
_SIZE, _DPI = (8.0, 5.0), 150


def draw_front(record: TuningRecord) -> bytes:
    """Return a PNG file with all candidates of the screening, the front, and the chosen one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(_SIZE, dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_axes(axes, record)
    named = ("off", "paper", record.chosen)
    _draw(axes, [row for row in record.tried if not row.on_front and row.name not in named], (_OTHER, "s", "tried"))
    _draw(axes, [row for row in record.tried if row.on_front and row.name not in named], (_FRONT, "o", "on the front"))
    for name, look in zip(
        named,
        ((_BASELINE, "D", "off: no compression"), (_BASELINE, "^", "paper: as published"), (_CHOSEN, "*", "chosen")),
        strict=True,
    ):
        _draw(axes, [row for row in record.tried if row.name == name], look)
    axes.legend(loc="lower right", fontsize=8.5)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_axes(axes: Any, record: TuningRecord) -> None:
    axes.set_title(f"{record.budget}={record.value:g}, task {record.data.task}: screening", loc="left", fontsize=12)
    axes.set_xlabel("multiply-accumulates of ViT and prefill, % of the uncompressed model")
    axes.set_ylabel("right answers that stayed right, %")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Any, rows: Sequence[TriedPolicy], look: tuple[str, str, str]) -> None:
    """Draw candidates that look the same: colour, shape and name in the legend."""
    colour, shape, label = look
    if rows:
        costs, shares = [100 * row.cost for row in rows], [100 * row.kept / max(row.questions, 1) for row in rows]
        axes.plot(costs, shares, shape, color=colour, markersize=12 if shape == "*" else 7, label=label, alpha=0.85)
