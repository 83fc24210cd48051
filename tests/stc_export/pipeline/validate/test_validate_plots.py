"""The plots: what is drawn where, read from the figures themselves, and that nothing hides anything."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from stc_export.pipeline.validate.costs import LATENCY, TOKENS, front
from stc_export.pipeline.validate.plots import draw_plot, draw_plots
from stc_export.pipeline.validate.types import ValidateResult
from tests.stc_export.cli.results import VALIDATED
from tests.stc_export.pipeline.validate.validated import many


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    saved: list[Figure] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def texts(figure: Figure) -> list[Text]:
    """All texts that are drawn; the axes keep labels for a tick beyond each end."""
    (axes,) = figure.axes
    ends = ((axes.xaxis, axes.get_xlim(), 0), (axes.yaxis, axes.get_ylim(), 1))
    beyond = {
        label
        for axis, (low, high), place in ends
        for label in axis.get_ticklabels()
        if not low <= label.get_position()[place] <= high
    }
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in beyond]


def drawn(result: ValidateResult, figures: list[Figure]) -> Figure:
    draw_plot(result, LATENCY, front(result.settings, LATENCY))
    return figures[-1]


def test_no_text_of_thirty_settings_overlaps_another_or_leaves_the_picture(figures: list[Figure]) -> None:
    figure = drawn(many(), figures)
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts(figure)]
    inside = figure.bbox
    assert not [name for name, box in boxes if not (inside.x0 <= box.x0 and box.x1 <= inside.x1)]
    assert not [name for name, box in boxes if not (inside.y0 <= box.y0 and box.y1 <= inside.y1)]
    found = [(a[0], b[0]) for a, b in combinations(boxes, 2) if a[1].shrunk(0.98, 0.9).overlaps(b[1].shrunk(0.98, 0.9))]
    assert found == []


def test_plot_says_what_it_is_about(figures: list[Figure]) -> None:
    result = many()
    found = {text.get_text() for text in texts(drawn(result, figures))}
    assert "n = 800 questions about 100 clips; bars: Wilson's 95 % intervals" in found
    assert {"mean time of a frame, ms", "right answers, %", "no compression"} <= found
    keys = [f"{number:>2}  {row.name}" for number, row in enumerate(result.settings)]
    assert set(keys) | {str(number) for number in range(31)} <= found


def test_points_bars_and_front_are_where_the_figures_are(figures: list[Figure]) -> None:
    rows = VALIDATED.settings
    rows = (rows[0], replace(rows[1], frame_mean_ms=5.0))
    (axes,) = drawn(replace(VALIDATED, settings=rows), figures).axes
    (line,) = [one for one in axes.lines if "front:" in str(one.get_label())]
    assert line.get_xydata().tolist() == [[5.0, 50.0], [12.5, 75.0]]
    bars = {tuple(bar.get_segments()[0].ravel().tolist()) for bar in axes.collections}
    assert bars == {(12.5, 50.0, 12.5, 100.0), (5.0, 25.0, 5.0, 75.0)}


def test_plots_are_of_time_and_of_the_tokens_in_which_settings_differ() -> None:
    assert [plot.name for plot in draw_plots(VALIDATED)] == ["accuracy-latency.png"]
    assert front(VALIDATED.settings, TOKENS[0]) == (True, False)
    rows = (VALIDATED.settings[0], replace(VALIDATED.settings[1], kept=0.1))
    plots = draw_plots(replace(VALIDATED, settings=rows))
    assert [plot.name for plot in plots] == ["accuracy-latency.png", "accuracy-kept.png"]
    for plot in plots:
        assert Image.open(io.BytesIO(plot.png)).size[0] == 1350


def test_plot_takes_any_name() -> None:
    name = "$x_1$ \\frac " + "漢" * 200
    rows = (VALIDATED.settings[0], replace(VALIDATED.settings[1], name=name))
    assert draw_plot(replace(VALIDATED, settings=rows, target="$^{"), LATENCY, (True, False)).startswith(b"\x89PNG")


def test_plot_is_the_same_twice() -> None:
    assert draw_plots(VALIDATED) == draw_plots(VALIDATED)
