"""The plots of a validation: accuracy against what a setting costs, each as a PNG file."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stc_export.pipeline.validate.costs import LATENCY, TOKENS, Cost, front
from stc_export.pipeline.validate.labels import Box, box_around, place_labels
from stc_export.pipeline.validate.types import SettingScore, ValidateResult

# Of Okabe and Ito's palette, whose colours stay apart for colour-blind readers; shapes tell the same.
_FRONT, _OTHER, _BASELINE, _FAINT = "#0072B2", "#E69F00", "#000000", "#888888"
_DPI, _WIDTH, _PLOT_HEIGHT = 150, 9.0, 5.3
#: Lines of the key: height in inches, longest text in one of two columns and alone, in characters.
_KEY_LINE, _KEY_HALF, _KEY_WHOLE = 0.16, 62, 130
#: Width of a marker in points, with its edge.
_MARKER, _BASELINE_MARKER = 7.0, 9.0
#: Size of a digit of a label in pixels.
_DIGIT, _DIGIT_HEIGHT = 11.5, 19.0


@dataclass(frozen=True)
class Plot:
    """A plot with what can be said of it.

    Attributes:
        name: Name of its file.
        title: What it shows.
        png: The file.
    """

    name: str
    title: str
    png: bytes


def draw_plots(result: ValidateResult) -> tuple[Plot, ...]:
    """Draw accuracy against latency, and against each share of tokens in which settings differ.

    Settings of the original model are left out: their times say nothing of a device.
    """
    result = replace(result, settings=tuple(row for row in result.settings if row.engine == "bundle"))
    differing = [cost for cost in TOKENS if len({cost.of(row) for row in result.settings}) > 1]
    return tuple(
        Plot(f"{cost.name}.png", cost.title, draw_plot(result, cost, front(result.settings, cost)))
        for cost in (LATENCY, *differing)
    )


def draw_plot(result: ValidateResult, cost: Cost, best: Sequence[bool]) -> bytes:
    """Draw accuracy against one cost.

    Args:
        result: What was measured.
        cost: The horizontal axis.
        best: Which settings are on the front.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    key = _key([row.name for row in result.settings])
    height = _PLOT_HEIGHT + _KEY_LINE * len(key[0])
    figure = Figure((_WIDTH, height), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 1 - (_PLOT_HEIGHT - 0.95) / height, 0.895, (_PLOT_HEIGHT - 1.5) / height))
    _draw_axes(axes, result, cost)
    _draw_points(axes, result.settings, cost, best)
    _draw_key(figure, key, height)
    canvas.draw()
    _draw_labels(axes, result.settings, cost)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_axes(axes: Any, result: ValidateResult, cost: Cost) -> None:
    title = f"{cost.title}: task {result.task}, target {result.target}"
    said = f"n = {result.questions} questions about {result.clips} clips; bars: Wilson's 95 % intervals"
    axes.set_title(_plain(title), loc="left", fontsize=12, pad=22, parse_math=False)
    axes.text(0, 1.02, said, transform=axes.transAxes, fontsize=9, color="#444444")
    axes.set_xlabel(cost.axis)
    axes.set_ylabel("right answers, %")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.06, 0.08)


def _draw_points(axes: Any, rows: Sequence[SettingScore], cost: Cost, best: Sequence[bool]) -> None:
    members = [row for row, is_best in zip(rows, best, strict=True) if is_best]
    line = sorted((cost.of(row), 100 * row.overall.accuracy.value) for row in members)
    label = "front: no setting is cheaper and as accurate"
    axes.plot(*zip(*line, strict=True), color=_FRONT, linewidth=1.4, drawstyle="steps-post", label=label)
    axes.axhline(100 * rows[0].overall.accuracy.value, color=_BASELINE, linewidth=0.8, linestyle=(0, (2, 3)))
    others = list(zip(rows, best, strict=True))[1:]
    _draw_group(axes, [row for row, is_best in others if not is_best], cost, (_OTHER, "s", "not on the front"))
    _draw_group(axes, [row for row, is_best in others if is_best], cost, (_FRONT, "o", "on the front"))
    _draw_group(axes, rows[:1], cost, (_BASELINE, "D", "no compression"))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4, fontsize=8.5, frameon=False)


def _draw_group(axes: Any, rows: Sequence[SettingScore], cost: Cost, look: tuple[str, str, str]) -> None:
    """Draw settings that look the same: colour, shape and name in the legend."""
    if not rows:
        return
    colour, shape, label = look
    found = [row.overall.accuracy for row in rows]
    below = [max(100 * (one.value - one.low), 0.0) for one in found]  # at 100 % the ends may be off by a rounding
    above = [max(100 * (one.high - one.value), 0.0) for one in found]
    axes.errorbar(
        [cost.of(row) for row in rows],
        [100 * one.value for one in found],
        (below, above),
        fmt=shape,
        color=colour,
        ecolor=colour + "66",
        elinewidth=1.0,
        markersize=_MARKER,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=label,
        zorder=3,
    )


def _draw_labels(axes: Any, rows: Sequence[SettingScore], cost: Cost) -> None:
    """Write the number of each setting beside its point, with a thin line where it had to move away."""
    points = [_pixels(axes, cost.of(row), row.overall.accuracy.value) for row in rows]
    sizes = [(_DIGIT * len(str(number)) + 4, _DIGIT_HEIGHT) for number in range(len(rows))]
    area = axes.get_window_extent()
    boxes = place_labels(points, sizes, _drawn(axes, rows, cost), Box(area.x0, area.y0, area.x1, area.y1))
    for number, (point, box) in enumerate(zip(points, boxes, strict=True)):
        axes.annotate(
            str(number),
            point,
            ((box.left + box.right) / 2, (box.bottom + box.top) / 2),
            xycoords="figure pixels",
            textcoords="figure pixels",
            ha="center",
            va="center",
            fontsize=8,
            zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "#ffffffc0", "edgecolor": "none"},
            arrowprops={"arrowstyle": "-", "color": _FAINT, "linewidth": 0.6, "shrinkA": 4, "shrinkB": 3},
        )


def _drawn(axes: Any, rows: Sequence[SettingScore], cost: Cost) -> list[Box]:
    """Return where the markers and bars are."""
    width = _BASELINE_MARKER * _DPI / 72
    markers = [box_around(*_pixels(axes, cost.of(row), row.overall.accuracy.value), width, width) for row in rows]
    ends = [
        (_pixels(axes, cost.of(row), row.overall.accuracy.low), _pixels(axes, cost.of(row), row.overall.accuracy.high))
        for row in rows
    ]
    return markers + [Box(x - 2, low, x + 2, high) for (x, low), (_, high) in ends]


def _pixels(axes: Any, cost: float, share: float) -> tuple[float, float]:
    x, y = axes.transData.transform((cost, 100 * share))
    return float(x), float(y)


def _key(names: Sequence[str]) -> list[list[str]]:
    """Return the columns of the key: which number is which setting."""
    longest = max(len(name) for name in names)
    columns = 2 if longest <= _KEY_HALF and len(names) > 1 else 1
    lines = [f"{number:>2}  {_plain(textwrap.shorten(name, _KEY_WHOLE))}" for number, name in enumerate(names)]
    rows = -(-len(lines) // columns)
    return [lines[first : first + rows] for first in range(0, len(lines), rows)]


def _draw_key(figure: Any, columns: Sequence[Sequence[str]], height: float) -> None:
    for place, lines in enumerate(columns):
        for line, text in enumerate(lines):
            y = 1 - (_PLOT_HEIGHT + line * _KEY_LINE) / height
            figure.text(0.03 + 0.49 * place, y, text, fontsize=7.5, family="monospace", parse_math=False)


def _plain(text: str) -> str:
    """Return what the plot's font has signs for."""
    return text.encode("ascii", "replace").decode()
