"""What a policy kept of the answers and what it cost, against sums over single frames and over single answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from stc_calib.tuning.space import Candidate
from stc_export.pipeline.calibrate.figures import held_out_figures, score
from stc_export.pipeline.operations import llm_macs, stream_macs, vit_macs
from stc_export.spec.memory import kept_tokens, kv_budget
from stc_export.spec.policy import (
    SELECTIONS,
    CacherPolicy,
    GatePolicy,
    MemoryPolicy,
    Policy,
    PrunerPolicy,
    named_policies,
)
from stc_export.validate.cuts import HeldFrames
from stc_export.validate.types import ClipOutcome, TaskClip, TaskQuestion, Work
from tests.stc_export.pipeline.calibrate.stand_in import is_faithful, make_outcome
from tests.stc_export.pipeline.small_bundle import small_manifest

DIMS = small_manifest().dims
MEMORY = MemoryPolicy(kv_tokens=20, answer_tokens=16)
QUESTION = TaskQuestion("who", "all", 0.0, "Who?", None, "same_text", 4)


def clips(policy: Policy, count: int, questions: int) -> list[ClipOutcome]:
    own = [TaskClip(f"clip {n}", HeldFrames(()), (QUESTION,) * questions) for n in range(count)]
    return [make_outcome(policy, clip, faithful=is_faithful(policy)) for clip in own]


@given(
    st.sampled_from(SELECTIONS),
    st.lists(st.one_of(st.just(0), st.integers(1, DIMS.vision.tokens)), min_size=1, max_size=20),
    st.sampled_from([0.1, 0.5, 1.0]),
)
def test_cost_of_a_stream_is_the_sum_over_its_frames(selection: str, recomputed: list[int], keep: float) -> None:
    tokens, kept = DIMS.vision.tokens, kept_tokens(DIMS.vision.visual_tokens, keep)
    encoded = [count for count in recomputed if count]
    full = sum(count == tokens for count in encoded)
    counts = (len(recomputed), full, len(encoded) - full)
    work = Work(*counts, tokens * len(recomputed), sum(encoded), 0, kept * len(encoded))
    policy = Policy(cacher=CacherPolicy(selection=selection), memory=MEMORY)  # type: ignore[arg-type]
    past = kv_budget(MEMORY, DIMS.text.context)
    each = [vit_macs(DIMS.vision, selection, count) + llm_macs(DIMS.text, kept, past) for count in encoded]  # type: ignore[arg-type]
    assert stream_macs(DIMS, policy, work) == sum(each)


def test_tokens_that_do_not_share_out_evenly_are_all_counted() -> None:
    work = Work(3, 3, 0, 75, 75, 27, 4)
    policy = Policy(memory=MEMORY)
    past = kv_budget(MEMORY, DIMS.text.context)
    vit = 3 * vit_macs(DIMS.vision, "gate", 25)
    assert stream_macs(DIMS, policy, work) == vit + 2 * llm_macs(DIMS.text, 1, past) + llm_macs(DIMS.text, 2, past)


OFF = replace(named_policies()["off"], memory=MEMORY)
LOSSY = Policy(gate=GatePolicy(mode="paper"), pruner=PrunerPolicy(keep=0.3), memory=MEMORY)


def test_score_counts_answers_that_stayed_right() -> None:
    found = score(LOSSY, clips(LOSSY, 4, 5), clips(OFF, 4, 5), DIMS)
    assert (found.questions, found.kept, found.share) == (20, 16, 0.8)
    assert found.frame_ms == 6 + 2  # a quarter of the frames are full, and 2 of 9 tokens are kept
    assert found.divergence == pytest.approx(0.1)
    assert 0 < found.cost < 1
    assert score(OFF, clips(OFF, 4, 5), clips(OFF, 4, 5), DIMS).cost == 1.0


def test_questions_that_the_uncompressed_model_got_wrong_do_not_count() -> None:
    found = score(LOSSY, clips(LOSSY, 4, 5), clips(LOSSY, 4, 5), DIMS)
    assert (found.questions, found.kept) == (16, 16)


def test_held_out_figures_have_their_intervals() -> None:
    own, off = clips(LOSSY, 12, 5), clips(OFF, 12, 5)
    found = held_out_figures(Candidate("lossy", LOSSY), own, off, DIMS)
    wilson = binomtest(48, 60).proportion_ci(0.95, method="wilson")
    assert found.kept.value == 0.8
    assert (found.kept.low, found.kept.high) == (pytest.approx(wilson.low), pytest.approx(wilson.high))
    assert (found.by_clips.low, found.by_clips.high) == (pytest.approx(0.8), pytest.approx(0.8))  # all clips are alike
    assert found.vit_prefill_ms == pytest.approx((6 * 6 + 24 * 2) / 24)
    assert found.frame_p95_ms == np.percentile([8.0] * 24, 95)
    assert (found.right, found.feature_cosine, found.divergence) == (0.8, 0.5, pytest.approx(0.1))


def test_few_clips_have_no_interval_by_clips() -> None:
    found = held_out_figures(Candidate("lossy", LOSSY), clips(LOSSY, 9, 5), clips(OFF, 9, 5), DIMS)
    assert (found.by_clips.value, found.by_clips.low, found.by_clips.high) == (0.8, None, None)
