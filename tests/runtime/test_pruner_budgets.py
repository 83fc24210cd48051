"""Budgets on the graphs of a bundle: the tokens of a fixed K of the same size, and a memory that adds up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest

from stc_export.spec.errors import ResourceError
from stc_export.spec.policy import Budget, GatePolicy, MemoryPolicy, Policy, Positions, PrunerPolicy
from stc_runtime import Model, StreamSession
from stc_runtime.pruner import FramePruner
from stc_runtime.testing import FakeBackend
from tests.reference.budgets import BUDGETS as REFERENCES
from tests.reference.budgets import Dtd, DyCoke
from tests.runtime.scenes import Workshop, scene

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.runtime.conftest import Pair

BUDGETS = get_args(Budget)
VARIABLE = tuple(name for name in BUDGETS if name != "fixed")
METHODS = ("random", "stc_gaussian", "stc_dual_anchor", "stride", "vidcom2", "vcast", "evs")
#: Visual tokens of the tiny checkpoint.
TOKENS = 9


def settings(method: str, budget: Budget) -> PrunerPolicy:
    return PrunerPolicy(method=method, keep=0.4, history=3, budget=budget, threshold=0.9)


#: How much each of five frames changes: stills, small changes and a cut; and the same without stills.
WITH_STILLS, MOVING = (0.0, 0.05, 0.3, 0.0, 3.0), (0.1, 0.05, 0.3, 0.2, 3.0)


def features(model: Model, count: int = 14, changes: tuple[float, ...] = WITH_STILLS) -> Iterator[NDArray[np.float32]]:
    """ViT features [T, C] of a stream."""
    vision, rng = model.manifest.dims.vision, np.random.default_rng(4)
    frame = rng.normal(size=(vision.tokens, vision.width))
    for number in range(count):
        frame = frame + changes[number % len(changes)] * rng.normal(size=frame.shape)
        yield frame.astype(model.dtype)


def tokens_of(model: Model, changes: tuple[float, ...] = WITH_STILLS) -> list[NDArray[np.float32]]:
    """All visual tokens [M, D] of the stream."""
    whole = FramePruner(model, Policy(pruner=PrunerPolicy(method="none")))
    return [whole.prune(frame)[0] for frame in features(model, changes=changes)]


@pytest.mark.parametrize("budget", ["vidcom2", "dtd", "evs"])
@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_bit_for_bit_those_of_a_fixed_count_of_that_size(
    tiny_model: Model, method: str, budget: Budget
) -> None:
    policy = settings(method, budget)
    pruner = FramePruner(tiny_model, Policy(pruner=policy))
    reference = REFERENCES[budget](policy.keep, policy.history, policy.threshold)
    fixed = [
        FramePruner(tiny_model, Policy(pruner=replace(policy, budget="fixed", keep=count / TOKENS)))
        for count in range(1, TOKENS + 1)
    ]
    counts = []
    for frame, whole in zip(features(tiny_model), tokens_of(tiny_model), strict=True):
        tokens, indices = pruner.prune(frame)
        alternatives = [one.prune(frame) for one in fixed]  # all of them, so that their histories are of this stream
        counts.append(len(tokens))
        assert counts[-1] == reference.count(whole)
        expected = alternatives[counts[-1] - 1] if counts[-1] else (tokens[:0], indices[:0])
        assert (tokens.tobytes(), indices.tobytes()) == (expected[0].tobytes(), expected[1].tobytes())
    assert len(set(counts)) > 1
    assert max(counts) <= pruner.most


def test_evs_with_budget_dtd_keeps_the_tokens_that_dtd_keeps(tiny_model: Model) -> None:
    pruner = FramePruner(tiny_model, Policy(pruner=settings("evs", "dtd")))
    reference, counts = Dtd(0.9), []
    for frame, whole in zip(features(tiny_model), tokens_of(tiny_model), strict=True):
        expected = reference.kept(whole)
        tokens, indices = pruner.prune(frame)
        assert indices.tolist() == expected
        np.testing.assert_array_equal(tokens, whole[expected])
        counts.append(len(expected))
    assert 0 in counts
    assert any(0 < count < TOKENS for count in counts)


def test_evs_with_budget_dycoke_keeps_the_tokens_that_dycoke_keeps(tiny_model: Model) -> None:
    pruner = FramePruner(tiny_model, Policy(pruner=settings("evs", "dycoke")))
    reference = DyCoke(0.4)
    # Without stills: of tokens that are all the same as before, rounding says which are the least similar.
    stream = zip(features(tiny_model, changes=MOVING), tokens_of(tiny_model, MOVING), strict=True)
    for frame, whole in stream:
        expected = reference.kept(whole)
        tokens, indices = pruner.prune(frame)
        assert indices.tolist() == expected
        np.testing.assert_array_equal(tokens, whole[expected])


@pytest.mark.parametrize("budget", BUDGETS)
def test_none_keeps_all_tokens_whatever_the_budget(tiny_model: Model, budget: Budget) -> None:
    pruner = FramePruner(tiny_model, Policy(pruner=settings("none", budget)))
    assert (pruner.usual, pruner.most, pruner.nbytes) == (TOKENS, TOKENS, 0)
    assert [len(pruner.prune(frame)[1]) for frame in features(tiny_model, 3)] == [TOKENS] * 3


def test_random_with_a_budget_draws_once_for_each_frame(tiny_model: Model) -> None:
    looked = FramePruner(tiny_model, Policy(pruner=settings("random", "vidcom2")))
    plain = FramePruner(tiny_model, Policy(pruner=replace(settings("random", "fixed"), keep=1 / 9)))
    for frame in features(tiny_model):
        (first,) = plain.prune(frame)[1]
        assert first in looked.prune(frame)[1]


@pytest.mark.parametrize("positions", ["contiguous", "original"])
@pytest.mark.parametrize("budget", VARIABLE)
def test_memory_holds_the_frames_that_a_list_of_counts_holds(
    workshop: Workshop, budget: Budget, positions: Positions
) -> None:
    memory = MemoryPolicy(kv_tokens=40, answer_tokens=970, positions=positions)
    session = workshop.session(Policy(GatePolicy("off"), pruner=settings("evs", budget), memory=memory))
    sink, context = session.remembered_tokens, session.manifest.dims.text.context
    held: list[int] = []
    counts = set()
    # Every picture comes twice, so that budgets meet frames on which nothing changed.
    for second, frame in enumerate(frame for frame in scene(16) for _ in range(2)):
        calls = len(workshop.recorder.calls["llm"])
        report = session.push(frame, float(second))
        count, before = report.kept_tokens, len(held)
        counts.add(count)
        assert report.mode == "full"
        assert count == len(report.kept_indices)
        if count:
            span = TOKENS if positions == "original" else None
            held.append(count)
            while sink + sum(held) > 40 or sink + sum(span or one for one in held) + 970 > context:
                held.pop(0)
            new = workshop.recorder.calls["llm"][-1]["position_ids"][0]
            assert new.tolist() == [
                new[0] + place - (report.kept_indices[0] if span else 0)
                for place in (report.kept_indices if span else range(count))
            ]
        assert len(workshop.recorder.calls["llm"]) - calls == (count > 0)
        assert (session.remembered_frames, session.remembered_tokens) == (len(held), sink + sum(held))
        assert report.evicted_frames == before + (count > 0) - len(held)
        assert (report.prefill_ms > 0) == (count > 0)
    assert len(counts) > 1


def test_frame_that_keeps_nothing_changes_no_answer(tiny_pair: Pair) -> None:
    policy = Policy(GatePolicy("off"), pruner=settings("evs", "dtd"))
    (frame,) = scene(1)
    with StreamSession.open(tiny_pair.bundle, policy) as session:
        session.push(frame, 0.0)
        before = [piece.token for piece in session.ask("What?", max_tokens=8)]
        report = session.push(frame, 1.0)
        assert (report.mode, report.kept_tokens, report.kept_indices, session.remembered_frames) == ("full", 0, (), 1)
        assert [piece.token for piece in session.ask("What?", max_tokens=8)] == before


@pytest.mark.parametrize(
    ("budget", "needed"), [("fixed", 3), ("vidcom2", 7), ("dtd", TOKENS), ("evs", TOKENS), ("dycoke", TOKENS)]
)
def test_memory_must_hold_the_largest_frame_of_the_budget(tiny_bundle: Path, budget: Budget, needed: int) -> None:
    model = Model.open(tiny_bundle, FakeBackend())
    sink = len(model.manifest.prompt.before_video)
    policy = Policy(pruner=settings("evs", budget), memory=MemoryPolicy(kv_tokens=sink + needed))
    assert StreamSession(model, policy).remembered_tokens == sink
    with pytest.raises(ResourceError) as caught:
        StreamSession(model, replace(policy, memory=MemoryPolicy(kv_tokens=sink + needed - 1)))
    assert f"one frame ({needed}) need {sink + needed}." in caught.value.problem
    assert caught.value.fix == (
        f"Set memory.kv_tokens to at least {sink + needed}, or keep fewer tokens of a frame (pruner.keep, "
        "pruner.budget)."
    )


def test_reset_forgets_what_the_budget_saw(tiny_model: Model) -> None:
    pruner = FramePruner(tiny_model, Policy(pruner=settings("evs", "evs")))
    streams = []
    for _ in range(2):
        streams.append([pruner.prune(frame)[1].tolist() for frame in features(tiny_model)])
        pruner.reset()
    assert streams[0] == streams[1]
