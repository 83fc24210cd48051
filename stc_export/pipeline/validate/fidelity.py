"""The section ``fidelity`` of a validation: how close each setting stays to no compression, as figures and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stc_export.pipeline.validate.types import Closeness, FidelityScore, SettingScore
from stc_export.validate.types import ClipFidelity, ClipOutcome

#: With fewer clips an interval from drawing clips says nothing.
LEAST_CLIPS = 10
#: Columns of :func:`fidelity_cells`.
FIDELITY_HEADER = (
    "setting",
    "features, cosine",
    "worst",
    "error",
    "tokens, cosine",
    "worst",
    "same answer",
    "same first token",
    "KL, nats",
    "worst",
)
FIDELITY_LEGEND = (
    "features: those of the ViT, all tokens of all frames; tokens: the visual tokens that reach the LLM; both against "
    "the same frames without compression; error: |x - dense| / |dense|; worst: the worst frame or question; KL: of the "
    "first token's distribution; in brackets: the 95 % interval of a bootstrap over clips. Fidelity stands in for "
    "accuracy: a right answer here is the one of the uncompressed model, right or wrong."
)
_TOO_FEW = "No intervals: {} clips, and a bootstrap over clips needs at least {}."


def fidelity_score(clips: Sequence[ClipOutcome]) -> FidelityScore | None:
    """Return the fidelity of a setting over all its clips; ``None`` where the task does not compare it."""
    found = [clip.fidelity for clip in clips if clip.fidelity is not None]
    if not found or len(found) < len(clips):
        return None

    def over(read: Callable[[ClipFidelity], Sequence[float]], worst: Callable[[Sequence[float]], float]) -> Closeness:
        return _closeness([read(one) for one in found], worst)

    return FidelityScore(
        clips=len(clips),
        feature_cosine=over(lambda one: one.feature_cosine, min),
        feature_error=over(lambda one: one.feature_error, max),
        token_cosine=over(lambda one: one.token_cosine, min),
        token_error=over(lambda one: one.token_error, max),
        same_answer=_closeness([[float(answer.correct) for answer in clip.answers] for clip in clips], min),
        same_first=over(lambda one: [float(same) for same in one.same_first], min),
        divergence=over(lambda one: one.divergence, max),
    )


def _closeness(clips: Sequence[Sequence[float]], worst: Callable[[Sequence[float]], float]) -> Closeness:
    samples = [sample for clip in clips for sample in clip]
    if not samples:  # a policy that gives the LLM no token of any frame
        return Closeness(0.0, 0.0, 0, None, None)
    from stc_export.validate.statistics import mean_interval  # numpy: the command line reads this file for its help

    low, high = mean_interval(clips) if len(clips) >= LEAST_CLIPS else (None, None)
    return Closeness(sum(samples) / len(samples), worst(samples), len(samples), low, high)


def fidelity_rows(settings: Sequence[SettingScore]) -> list[tuple[str, ...]]:
    """Return a row per setting; none where the task does not compare fidelity."""
    return [fidelity_cells(row.name, row.fidelity) for row in settings if row.fidelity is not None]


def fidelity_cells(name: str, found: FidelityScore) -> tuple[str, ...]:
    """Return the row of a setting."""
    return (
        name,
        _number(found.feature_cosine),
        f"{found.feature_cosine.worst:.4f}",
        _number(found.feature_error),
        _number(found.token_cosine),
        f"{found.token_cosine.worst:.4f}",
        _share(found.same_answer),
        _share(found.same_first),
        _number(found.divergence),
        f"{found.divergence.worst:.4f}",
    )


def fidelity_notes(settings: Sequence[SettingScore]) -> list[str]:
    """Return what is to be said below the table; nothing where there is none."""
    found = [row.fidelity for row in settings if row.fidelity is not None]
    if not found:
        return []
    counts = f"{found[0].clips} clips, {found[0].feature_cosine.n} frames, {found[0].same_answer.n} questions."
    few = [_TOO_FEW.format(found[0].clips, LEAST_CLIPS)] if found[0].clips < LEAST_CLIPS else []
    return [" ".join([counts, *few]), FIDELITY_LEGEND]


def _number(found: Closeness) -> str:
    return f"{found.mean:.4f}{_interval(found, lambda end: f'{end:.4f}')}"


def _share(found: Closeness) -> str:
    return f"{100 * found.mean:.1f} %{_interval(found, lambda end: f'{100 * end:.1f}')}"


def _interval(found: Closeness, text: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return ""
    return f" ({text(found.low)} to {text(found.high)})"
