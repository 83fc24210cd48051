"""Visual tokens of a stream against transformers, and which of them are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from stc_export.spec.errors import BundleError
from stc_export.spec.memory import kept_tokens
from stc_export.spec.policy import GatePolicy, Policy, PrunerPolicy, named_policies
from stc_runtime import Model, StreamSession
from stc_runtime.pruner import FramePruner
from tests.reference.pruners import REFERENCES
from tests.runtime.scenes import Recorder, scene

if TYPE_CHECKING:
    from tests.runtime.conftest import Pair


def test_visual_tokens_without_compression_equal_transformers(pair: Pair) -> None:
    frames, recorder = scene(3), Recorder()
    with StreamSession.open(pair.bundle, named_policies()["off"], recorder) as session:
        for second, frame in enumerate(frames):
            session.push(frame, float(second))
    found = np.stack(recorder.embeds()[1:])  # the first call is the prompt
    expected = pair.reference.visual_tokens(frames).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", sorted(REFERENCES))
def test_stream_keeps_what_the_reference_keeps_of_transformers_tokens(tiny_pair: Pair, method: str) -> None:
    policy = Policy(GatePolicy(mode="off"), pruner=PrunerPolicy(method=method, keep=0.4, alpha=0.3, history=4))
    kept = 9 if method == "none" else 3
    recorder = Recorder()
    frames = scene(14)
    expected = [tokens.numpy() for tokens in tiny_pair.reference.visual_tokens(frames)]
    with StreamSession.open(tiny_pair.bundle, policy, recorder) as session:
        for _ in range(2):  # after a reset the history is empty again
            reference = REFERENCES[method](4, 0.3)
            first = len(recorder.kept())
            for second, frame in enumerate(frames):
                report = session.push(frame, float(second))
                assert (report.visual_tokens, report.kept_tokens) == (9, kept)
                chosen = reference.step(expected[second], kept)
                assert recorder.kept()[-1] == chosen.tolist()
                assert report.kept_indices == tuple(chosen.tolist())
                np.testing.assert_allclose(recorder.embeds()[-1], expected[second][chosen], rtol=0, atol=1e-4)
            assert recorder.kept()[first] == recorder.kept()[0]
            session.reset()


def kept_by_chance(model: Model, seed: int, frames: int, keep: float = 0.4) -> list[tuple[int, ...]]:
    """Tokens that were kept of each frame of a stream in which every frame is the same picture."""
    policy = Policy(GatePolicy(mode="off"), pruner=PrunerPolicy(method="random", keep=keep, seed=seed))
    (frame,) = scene(1)
    with StreamSession(model, policy) as session:
        return [session.push(frame, float(second)).kept_indices for second in range(frames)]


def test_random_with_the_same_seed_keeps_the_same_tokens_and_with_another_others(tiny_model: Model) -> None:
    assert kept_by_chance(tiny_model, 7, 12) == kept_by_chance(tiny_model, 7, 12) != kept_by_chance(tiny_model, 8, 12)


def test_random_keeps_other_tokens_of_the_same_picture_in_the_next_frame(tiny_model: Model) -> None:
    kept = kept_by_chance(tiny_model, 0, 40)
    assert all(list(one) == sorted(set(one)) and len(one) == 3 for one in kept)
    # 84 triples of 9 tokens are equally likely: 40 draws hit about 32 of them.
    assert len(set(kept)) > 24


def test_random_with_the_largest_seed_of_a_policy_file_runs(tiny_model: Model) -> None:
    assert kept_by_chance(tiny_model, 2**63 - 1, 1) != []


def test_random_skipped_frames_draw_nothing(tiny_model: Model) -> None:
    policy = Policy(gate=GatePolicy(warmup=1), pruner=PrunerPolicy(method="random", keep=0.4))
    moving = scene(3)
    with StreamSession(tiny_model, policy) as session:
        reports = [session.push(frame, 0.0) for frame in (moving[0], moving[0], 255 - moving[1], 255 - moving[1])]
    assert [report.mode for report in reports] == ["full", "skip", "full", "skip"]
    reference = REFERENCES["random"](1, 0.5)
    expected = [tuple(reference.step(np.zeros((9, 1)), 3).tolist()) for _ in range(2)]
    assert [report.kept_indices for report in reports] == [expected[0], (), expected[1], ()]


def test_random_keeps_every_token_equally_often(tiny_model: Model) -> None:
    frames = 900
    pruner = FramePruner(tiny_model, Policy(pruner=PrunerPolicy(method="random", keep=0.4)))
    vision = tiny_model.manifest.dims.vision
    features = np.zeros((vision.tokens, vision.width), np.float32)
    kept = [pruner.prune(features)[1].tolist() for _ in range(frames)]
    counts = np.bincount(np.concatenate(kept), minlength=9)
    # Kept counts are binomial with p = 3/9, correlated by their fixed sum: this statistic is chi-square with 8 degrees
    # of freedom, and below 1.34 or above 21.96 in one stream of 100 (0.5 % on each side).
    variance = frames * (3 / 9) * (6 / 9)
    statistic = ((counts - frames * 3 / 9) ** 2).sum() / variance * 8 / 9
    assert 1.34 < statistic < 21.96
    together = sum(0 in one and 1 in one for one in kept) / frames
    assert together == pytest.approx(3 / 9 * 2 / 8, abs=0.03)  # neighbours are no more alike than others; 3 sigma


@given(st.integers(1, 2000), st.integers(1, 1000))
def test_kept_tokens_any_share_is_the_whole_part_of_the_product_and_at_least_one(total: int, thousandths: int) -> None:
    # In whole numbers: a share like 0.3 has no exact binary fraction, and 0.3 of 10 is 3.
    assert kept_tokens(total, thousandths / 1000) == max(1, total * thousandths // 1000)


def test_history_bytes_are_those_of_the_window(tiny_model: Model) -> None:
    used = {
        method: FramePruner(tiny_model, Policy(pruner=PrunerPolicy(method=method, history=16))).nbytes
        for method in REFERENCES
    }
    # Rows and weights in float32; the mean keeps its sum in float64 beside.
    assert used == {
        "none": 0,
        "random": 0,
        "stc_dual_anchor": 16 * (48 + 1) * 4,
        "stc_gaussian": (24 + 1) * 4 + 24 * 8,
        "stride": 0,
        "vidcom2": 16 * (48 + 1) * 4,
        "vcast": 0,
        "evs": (9 * 48 + 1) * 4,
    }


def test_method_that_the_bundle_lacks_raises_and_names_those_it_has(tiny_model: Model) -> None:
    with pytest.raises(BundleError) as caught:
        StreamSession(tiny_model, Policy(pruner=PrunerPolicy(method="fastv")))
    assert caught.value.problem == (
        'The bundle has no pruner graph "fastv"; '
        "it has: none, random, stc_gaussian, stc_dual_anchor, stride, vidcom2, vcast, evs."
    )
