"""From the clips of a candidate to what it kept of the uncompressed model's answers, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from stc_calib.tuning.budgets import Score
from stc_calib.tuning.space import BASELINE, Candidate
from stc_export.pipeline.operations import stream_macs
from stc_export.pipeline.validate.fidelity import LEAST_CLIPS, fidelity_score
from stc_export.spec.dims import ModelDims
from stc_export.spec.policy import Policy, named_policies
from stc_export.spec.tuning import Estimate, HeldOutPolicy
from stc_export.validate.statistics import accuracy, mean_interval
from stc_export.validate.types import Answered, ClipOutcome, total_work


def score(policy: Policy, own: Sequence[ClipOutcome], off: Sequence[ClipOutcome], dims: ModelDims) -> Score:
    """Return what a policy gave.

    Args:
        policy: The policy.
        own: Its clips, at least one.
        off: The same clips of the uncompressed model, in the same order.
        dims: Sizes of the model.
    """
    answers = list(chain.from_iterable(counted(own, off)))
    frames = [ms for clip in own for ms in clip.times.frame]
    nats = [nats for clip in own if clip.fidelity for nats in clip.fidelity.divergence]
    return Score(
        questions=len(answers),
        kept=sum(answer.correct for answer in answers),
        cost=_cost(policy, own, off, dims),
        frame_ms=sum(frames) / len(frames),
        divergence=sum(nats) / len(nats) if nats else 0.0,
    )


def counted(own: Sequence[ClipOutcome], off: Sequence[ClipOutcome]) -> list[list[Answered]]:
    """Return the answers of each clip to the questions that the uncompressed model answered right.

    Without labels these are all, unless the device itself does not give the same answer twice.
    """
    return [
        [answer for answer, before in zip(clip.answers, base.answers, strict=True) if before.correct]
        for clip, base in zip(own, off, strict=True)
    ]


def _cost(policy: Policy, own: Sequence[ClipOutcome], off: Sequence[ClipOutcome], dims: ModelDims) -> float:
    baseline = replace(named_policies()[BASELINE], memory=policy.memory)
    whole = stream_macs(dims, baseline, total_work(clip.work for clip in off))
    return stream_macs(dims, policy, total_work(clip.work for clip in own)) / whole


def held_out_figures(
    candidate: Candidate, own: Sequence[ClipOutcome], off: Sequence[ClipOutcome], dims: ModelDims
) -> HeldOutPolicy:
    """Return the final figures of a candidate; arguments as of :func:`score`."""
    found = score(candidate.policy, own, off, dims)
    by_clip = [answers for answers in counted(own, off) if answers]
    closeness = fidelity_score(own)
    frames = [ms for clip in own for ms in clip.times.frame]
    return HeldOutPolicy(
        name=candidate.name,
        questions=found.questions,
        kept=_share(list(chain.from_iterable(by_clip))),
        by_clips=_by_clips(by_clip, found.share),
        right=float(np.mean([answer.correct for clip in own for answer in clip.answers])),
        cost=found.cost,
        vit_prefill_ms=_vit_prefill_ms(own) / len(frames),
        frame_ms=found.frame_ms,
        frame_p95_ms=float(np.percentile(frames, 95)),
        feature_cosine=None if closeness is None else closeness.feature_cosine.mean,
        divergence=None if closeness is None else closeness.divergence.mean,
    )


def _vit_prefill_ms(clips: Sequence[ClipOutcome]) -> float:
    return sum(
        sum(times.vit_full) + sum(times.vit_selective) + sum(times.prefill) for times in (c.times for c in clips)
    )


def _share(answers: Sequence[Answered]) -> Estimate:
    found = accuracy(answers)
    return Estimate(found.value, found.low, found.high)


def _by_clips(clips: Sequence[Sequence[Answered]], share: float) -> Estimate:
    if len(clips) < LEAST_CLIPS:
        return Estimate(share, None, None)
    return Estimate(share, *mean_interval([[float(answer.correct) for answer in answers] for answers in clips]))
