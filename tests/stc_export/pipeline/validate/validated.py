"""Results of a validation with many settings, made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import sqrt

from stc_export.pipeline.validate.types import SettingScore, ValidateResult
from stc_export.validate.types import Interval
from tests.stc_export.cli.results import VALIDATED, scored


def around(share: float, n: int) -> Interval:
    """An interval that is wide enough to be seen."""
    half = 2 * sqrt(share * (1 - share) / n)
    return Interval(share, max(share - half, 0.0), min(share + half, 1.0), n)


def setting(place: int, ratio: float, keep: float) -> SettingScore:
    """A setting whose accuracy and cost go up with both values, but for some noise."""
    right = 0.92 - 0.08 * (1 - ratio) ** 2 - 0.2 * (1 - keep) ** 3 + 0.003 * (place * 7 % 5 - 2)
    base = scored(f"cacher.update_ratio={ratio}, pruner.keep={keep}", 0.5, VALIDATED.settings[1].overall.against_off)
    return replace(
        base,
        overall=replace(base.overall, accuracy=around(right, 800)),
        computed=0.25 + 0.75 * ratio,
        kept=keep,
        frame_mean_ms=3 + 12 * ratio + 8 * keep,
    )


def many() -> ValidateResult:
    """Thirty settings beside the baseline."""
    values = product((0.1, 0.25, 0.5, 0.75, 1.0), (0.2, 0.3, 0.5, 0.7, 0.85, 1.0))
    rows = [setting(place, *each) for place, each in enumerate(values)]
    off = replace(scored("off", 0.915, None), frame_mean_ms=24.0, kept=1.0)
    return replace(VALIDATED, settings=(off, *rows), questions=800, clips=100)
