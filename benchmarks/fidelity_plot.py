"""Draw cost against fidelity per clip: `python benchmarks/fidelity_plot.py` writes docs/images/fidelity.png."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from fidelity import RESULTS, Record, Run, score
from fidelity_policies import PAPER_INTERVALS, like, paper_name

from stc_export.spec import codec
from stc_export.spec.dims import VisionDims
from stc_export.spec.policy import CacherPolicy, Policy

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "fidelity.png"
#: Okabe and Ito's palette, and a marker each, so that no one needs the colours.
_PAPER, _OURS, _POINTS = ("#E69F00", "s"), ("#0072B2", "o"), ("#000000", "*")
_BEFORE = ("#56B4E9", ".")
#: The default with a cache that is overwritten.
_PLAIN = Policy(cacher=CacherPolicy(gain=1.0, drift=0.0))
_COLUMNS = 4


def draw(record: Record) -> Any:
    """Return a figure with one plot per clip, four to a row."""
    from matplotlib.figure import Figure

    clips = list(dict.fromkeys(run.clip for run in record.runs))
    rows = math.ceil(len(clips) / _COLUMNS)
    figure = Figure((4.2 * _COLUMNS, 3.6 * rows + 0.4), dpi=130, layout="constrained")
    for number, clip in enumerate(clips, 1):
        axes = figure.add_subplot(rows, _COLUMNS, number)
        _draw_clip(axes, record.vision, {run.name: run for run in record.runs if run.clip == clip})
        axes.set_title(clip)
        axes.set_xlabel("ViT work, share of dense encoding")
    figure.supylabel("mean cosine with dense encoding")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _draw_clip(axes: Any, vision: VisionDims, runs: dict[str, Run]) -> None:
    """Draw what was run: not every clip has every policy."""
    published = [runs[name] for name in map(paper_name, PAPER_INTERVALS) if name in runs]
    _curve(axes, vision, published, _PAPER, "published, N = 2 to 16")
    for policy, style, label in (
        (Policy(), _OURS, "adaptive, full every 2 to 16"),
        (_PLAIN, _BEFORE, "the same without carrying over"),
    ):
        _curve(axes, vision, [run for run in runs.values() if like(run.policy, policy)], style, label)
    for name in ("adaptive", "fast"):
        found = score(vision, runs[name])
        axes.plot(found.cost, found.mean, _POINTS[1], color=_POINTS[0], markersize=11, zorder=3)
        axes.annotate(name, (found.cost, found.mean), (-6, 5), textcoords="offset points", ha="right")
    axes.grid(alpha=0.3)
    axes.margins(x=0.14, y=0.1)


def _curve(axes: Any, vision: VisionDims, runs: list[Run], style: tuple[str, str], label: str) -> None:
    points = sorted((found.cost, found.mean) for found in (score(vision, run) for run in runs))
    axes.plot(*zip(*points, strict=True), marker=style[1], color=style[0], label=label)


if __name__ == "__main__":
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} is missing: run benchmarks/fidelity.py first.")
    draw(codec.from_json(Record, RESULTS.read_text(encoding="utf-8"))).savefig(PICTURE, metadata={"Software": None})
