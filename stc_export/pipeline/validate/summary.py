"""From the clips of each setting to accuracy, cost and times, against the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import chain

from stc_export.pipeline.tally import latency
from stc_export.pipeline.validate.fidelity import fidelity_score
from stc_export.pipeline.validate.types import (
    BundleChange,
    Comparison,
    Conversion,
    GroupScore,
    SettingScore,
    ValidateLatencies,
)
from stc_export.validate.averages import Rule, official_score
from stc_export.validate.statistics import accuracy, agreement, difference, mcnemar
from stc_export.validate.twins import baselines, other_bundles, twins
from stc_export.validate.types import Answered, ClipOutcome, Interval, Setting, total_work

#: With fewer clips a bootstrap over clips is too narrow to show a difference.
_LEAST_CLIPS = 10


def score(
    setting: Setting,
    clips: Sequence[ClipOutcome],
    baseline: Sequence[ClipOutcome] | None,
    rule: Rule = "questions",
) -> SettingScore:
    """Return what a setting gave.

    Args:
        setting: The setting.
        clips: All its clips; at least one question.
        baseline: The same clips of the baseline in the same order; ``None`` for the baseline itself.
        rule: How the benchmark sums up.
    """
    answers, others = _answers(clips), None if baseline is None else _answers(baseline)
    groups = tuple(dict.fromkeys(answer.group for answer in answers))
    work = total_work(clip.work for clip in clips)
    frames = [ms for clip in clips for ms in clip.times.frame]
    return SettingScore(
        name=setting.name,
        policy=setting.policy,
        overall=_group("all", answers, others),
        groups=tuple(_group(name, _of(answers, name), others and _of(others, name)) for name in sorted(groups)),
        work=work,
        computed=_share(work.vit_recomputed, work.vit_tokens),
        kept=_share(work.kept_tokens, work.visual_tokens),
        frame_mean_ms=_mean(frames),
        latency_ms=_latencies(clips),
        frames_per_second=round(1e3 * len(frames) / sum(frames), 3) if sum(frames) else 0.0,
        peak_rss_bytes=max((clip.peak_rss_bytes for clip in clips if clip.peak_rss_bytes is not None), default=None),
        official=official_score(rule, answers),
        fidelity=fidelity_score(clips),
        engine=setting.engine,
        bundle=setting.bundle,
    )


def compare_engines(settings: Sequence[Setting], clips: Mapping[str, Sequence[ClipOutcome]]) -> tuple[Conversion, ...]:
    """Return what the conversion did to the answers, for each setting that ran in the original model, too.

    Args:
        settings: All settings.
        clips: The clips of each by its name, the same ones in the same order.
    """
    return tuple(_conversion(own, clips[own.name], clips[other.name]) for own, other in twins(settings))


def compare_bundles(
    settings: Sequence[Setting], clips: Mapping[str, Sequence[ClipOutcome]]
) -> tuple[BundleChange, ...]:
    """Return what other bundles did to the answers, for each of their settings; see :func:`compare_engines`."""
    return tuple(_change(own, clips[own.name], clips[first.name]) for own, first in other_bundles(settings))


def _conversion(setting: Setting, own: Sequence[ClipOutcome], original: Sequence[ClipOutcome]) -> Conversion:
    """Return what the conversion did to the answers under one policy.

    Args:
        setting: The setting of the bundle.
        own: Its clips.
        original: The same clips in the original model, in the same order.
    """
    answers, others = _answers(own), _answers(original)
    return Conversion(setting.name, agreement(answers, others), _compare(answers, others))


def _change(setting: Setting, own: Sequence[ClipOutcome], first: Sequence[ClipOutcome]) -> BundleChange:
    """Return what another bundle did to the answers under one policy.

    Args:
        setting: The setting of the other bundle.
        own: Its clips.
        first: The same clips in the first bundle, in the same order.
    """
    answers, others = _answers(own), _answers(first)
    return BundleChange(setting.name, agreement(answers, others), _compare(answers, others))


def score_settings(
    settings: Sequence[Setting], clips: Mapping[str, Sequence[ClipOutcome]], rule: Rule
) -> tuple[SettingScore, ...]:
    """Return what each setting gave, against the first one that ran in the same engine.

    Args:
        settings: All settings.
        clips: The clips of each by its name, the same ones in the same order.
        rule: How the task sums up.
    """
    first = baselines(settings)
    others = [first[setting.engine] for setting in settings]
    return tuple(
        score(setting, clips[setting.name], None if setting == other else clips[other.name], rule)
        for setting, other in zip(settings, others, strict=True)
    )


def verdict(found: Interval, clips: int) -> str:
    """Return what a difference to the baseline proves, in words.

    Args:
        found: Difference with its interval.
        clips: Clips behind it.
    """
    if found.low <= 0 <= found.high:
        return f"no significant difference at n = {found.n}"
    if clips < _LEAST_CLIPS:
        return f"too few clips to tell ({clips})"
    return "better" if found.value > 0 else "worse"


def _group(name: str, answers: Sequence[Answered], others: Sequence[Answered] | None) -> GroupScore:
    return GroupScore(name, accuracy(answers), None if others is None else _compare(answers, others))


def _compare(answers: Sequence[Answered], others: Sequence[Answered]) -> Comparison:
    found = difference(answers, others)
    return Comparison(found, mcnemar(answers, others), verdict(found, len({answer.clip for answer in answers})))


def _answers(clips: Sequence[ClipOutcome]) -> list[Answered]:
    return [answer for clip in clips for answer in clip.answers]


def _of(answers: Sequence[Answered], group: str) -> list[Answered]:
    return [answer for answer in answers if answer.group == group]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean(samples: Sequence[float]) -> float:
    return round(sum(samples) / len(samples), 3) if samples else 0.0


def _latencies(clips: Sequence[ClipOutcome]) -> ValidateLatencies:
    names = [field.name for field in fields(ValidateLatencies)]
    return ValidateLatencies(**{n: latency(chain.from_iterable(getattr(c.times, n) for c in clips)) for n in names})
