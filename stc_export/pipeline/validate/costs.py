"""What compression is to reduce, and which settings are on the front of accuracy and one such cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stc_export.pipeline.validate.types import SettingScore
from stc_export.validate.front import Tradeoff, on_front


@dataclass(frozen=True)
class Cost:
    """A quantity that compression is to reduce.

    Attributes:
        name: Name of the plot's file, without suffix.
        title: Title of the plot.
        axis: Label of the axis, with the unit.
        of: Reads it from a setting.
    """

    name: str
    title: str
    axis: str
    of: Callable[[SettingScore], float]


#: What a setting costs in time. The column "on the front" is about this quantity and accuracy.
LATENCY = Cost("accuracy-latency", "Accuracy and latency", "mean time of a frame, ms", lambda row: row.frame_mean_ms)
#: What a setting costs in tokens.
TOKENS = (
    Cost(
        "accuracy-computed",
        "Accuracy and tokens computed",
        "tokens of the vision transformer that were computed, %",
        lambda row: 100 * row.computed,
    ),
    Cost(
        "accuracy-kept",
        "Accuracy and tokens kept",
        "visual tokens that reached the language model, %",
        lambda row: 100 * row.kept,
    ),
)


def front(rows: Sequence[SettingScore], cost: Cost) -> tuple[bool, ...]:
    """Return for each setting whether it is on the front: no other is at least as accurate and as cheap, and better.

    The original model is no choice for a device, so its settings are not on it.
    """
    choices = [row for row in rows if row.engine == "bundle"]
    best = iter(on_front([Tradeoff(cost.of(row), row.overall.accuracy.value) for row in choices]))
    return tuple(row.engine == "bundle" and next(best) for row in rows)
