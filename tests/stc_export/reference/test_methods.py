"""Methods of the reference alone, against plain ones that share no code with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stc_export.demo.checkpoint import CheckpointOptions, write_checkpoint
from stc_export.reference.attention import ATTENTIONS
from stc_export.reference.encoder import Seen
from stc_export.reference.evs_clip import evs_clip
from stc_export.reference.fastv import FastV
from stc_export.reference.inside import Inside, visual_counts
from stc_export.reference.late import LateReader, NothingInside, inside_llm
from stc_export.reference.methods import REFERENCE_METHODS, check_budget, check_exportable
from stc_export.reference.model import TorchModel
from stc_export.reference.parts import PARTS, find_parts
from stc_export.reference.pdrop import PDrop
from stc_export.reference.sparsevlm import SparseVlm, kept_beside_clusters
from stc_export.reference.tome import TomeEncoder, merge_schedule, merged_pass
from stc_export.reference.vidcom2_clip import frame_counts, vidcom2_clip
from stc_export.spec.errors import PolicyError, QuestionError, ResourceError, UnsupportedError
from stc_export.spec.policy import GatePolicy, MemoryPolicy, Policy, PrunerPolicy
from tests.checkpoints import tiny_dims
from tests.reference import dropping
from tests.reference.eager_stream import Reference
from tests.reference.merging import merged
from tests.reference.selective_vit import Encoder
from tests.stc_export.pipeline.small_bundle import small_manifest

SINK, QUESTION, FRAMES, LAYERS = (497, 443, 220), [11, 12, 13, 14], 4, 6
DIMS = replace(tiny_dims(), text=replace(tiny_dims().text, layers=LAYERS))
CLIPS = {"vidcom2_clip": dropping.vidcom2, "evs_clip": dropping.evs}
INSIDE: dict[str, Inside] = {"fastv": FastV(), "pdrop": PDrop(), "sparsevlm": SparseVlm()}
MEMORY = MemoryPolicy(kv_tokens=200, answer_tokens=32)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The tiny model with an LLM deep enough for four stages."""
    folder: Path = write_checkpoint(tmp_path_factory.mktemp("deep"), DIMS, CheckpointOptions(seed=4))
    found = Reference(folder)
    found.model.requires_grad_(requires_grad=False)
    return found


@pytest.fixture(scope="module")
def model(reference: Reference) -> TorchModel:
    manifest = replace(small_manifest(), dims=DIMS)
    return TorchModel(reference.model, ATTENTIONS["eager"], manifest, None, None)  # type: ignore[arg-type]


def features() -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(2)
    return [torch.randn(DIMS.vision.tokens, DIMS.vision.width, generator=draws) for _ in range(FRAMES)]


def a_policy(method: str, keep: float, **memory: Any) -> Policy:
    return Policy(gate=GatePolicy(mode="off"), pruner=PrunerPolicy(method, keep), memory=replace(MEMORY, **memory))


def asked(reader: Any, model: TorchModel) -> torch.Tensor:
    return torch.cat([model.newline, model.embed(QUESTION)])


def prompt_tokens(model: TorchModel, kept: list[list[int]]) -> list[dropping.Token]:
    """The prompt as records: sink, kept visual tokens, newline and question."""
    visual = [model.visual_tokens(f)[rows] for f, rows in zip(features(), kept, strict=True)]
    parts = [(model.embed(SINK), False), *((v, True) for v in visual), (asked(None, model), False)]
    rows = [(row.double().numpy(), is_visual) for part, is_visual in parts for row in part]
    return [dropping.Token(x, place, is_visual) for place, (x, is_visual) in enumerate(rows)]


@pytest.mark.parametrize(("name", "keep"), [("fastv", 0.5), ("pdrop", 0.3), ("pdrop", 0.6), ("sparsevlm", 0.45)])
def test_logits_equal_those_of_the_plain_method(name: str, keep: float, model: TorchModel) -> None:
    reader = find_parts(name).reader(model, a_policy(name, keep), SINK)
    for frame in features():
        reader.take(Seen(frame))
    found = reader.begin(asked(reader, model)).logits
    tokens = prompt_tokens(model, [list(range(9))] * FRAMES)
    counts = list(visual_counts(INSIDE[name].shares(LAYERS, keep), 9 * FRAMES))
    assert len(set(counts)) > 1
    plain = {"fastv": dropping.fastv, "pdrop": dropping.pdrop, "sparsevlm": dropping.sparsevlm(tokens)}
    expected = dropping.PlainQwen2(model.model).logits(tokens, counts, plain[name])
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_nothing_dropped_inside_equals_transformers_and_goes_on_as_it_does(model: TorchModel) -> None:
    reader = LateReader(inside_llm(NothingInside()), model, a_policy("fastv", 1.0), SINK)
    for frame in features():
        reader.take(Seen(frame))
    question = asked(reader, model)
    visual = torch.cat([model.visual_tokens(frame) for frame in features()])
    whole = torch.cat([model.embed(SINK), visual, question])
    more = model.embed([7])
    for _ in range(2):  # a question leaves nothing behind
        found = [reader.begin(question).logits, reader.extend(more)]
        reader.end()
        for own, embeds in zip(found, (whole, torch.cat([whole, more])), strict=True):
            hidden = model.language(inputs_embeds=embeds[None]).last_hidden_state[0, -1]
            np.testing.assert_allclose(own, model.logits(hidden), atol=1e-4)


@given(st.sampled_from(sorted(INSIDE)), st.integers(2, 40), st.floats(0.01, 1.0))
def test_shares_fall_from_one_and_their_mean_is_what_is_asked_for(name: str, layers: int, keep: float) -> None:
    try:
        shares = INSIDE[name].shares(layers, keep)
    except PolicyError as error:
        least = float(error.fix.split()[-1].rstrip("."))
        assert keep <= least
        return
    assert len(shares) == layers
    assert shares[0] == 1.0
    assert sorted(shares, reverse=True) == list(shares)
    assert sum(shares) / layers == pytest.approx(keep, abs=1e-9)


def test_published_stages_are_found_again() -> None:
    assert FastV().shares(32, 0.53125) == (1.0,) * 2 + (0.5,) * 30
    expected = [0.5**stage for stage in range(4) for _ in range(8)]
    assert PDrop().shares(32, sum(expected) / 32) == pytest.approx(expected)
    ends = [SparseVlm().shares(32, 0.4).count(share) for share in sorted(set(SparseVlm().shares(32, 0.4)))[::-1]]
    assert ends == [2, 4, 9, 17]


def test_so_little_that_the_first_layers_are_more_is_refused(model: TorchModel) -> None:
    with pytest.raises(PolicyError, match=r"fastv keeps all visual tokens in its first layers, which alone are 0.167"):
        find_parts("fastv").reader(model, a_policy("fastv", 0.1), SINK)


@given(st.integers(2, 300), st.data())
def test_kept_tokens_and_clusters_are_as_many_as_asked_for(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total - 1))
    kept = kept_beside_clusters(total, count)
    recycled = int(0.3 * (total - kept)) + 1
    assert 0 <= kept < count
    assert count - kept >= recycled // 10 + 1 or kept == 0
    assert count - kept <= recycled


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_method_of_a_whole_clip_equals_the_plain_one(name: str, positions: str, model: TorchModel) -> None:
    reader = find_parts(name).reader(model, a_policy(name, 0.5, positions=positions), SINK)
    taken = [reader.take(Seen(frame)).kept for frame in features()]
    found = reader.begin(asked(reader, model)).logits
    clip = np.stack([model.visual_tokens(frame).double().numpy() for frame in features()])
    kept = CLIPS[name](clip, 4)
    assert sum(map(len, kept)) == sum(taken) == 4 * FRAMES
    tokens = prompt_tokens(model, kept)
    if positions == "original":
        places = [*range(3), *(3 + 9 * f + i for f, rows in enumerate(kept) for i in rows)]
        for token, place in zip(tokens, [*places, *range(3 + 9 * FRAMES, 99)], strict=False):
            token.position = place
    expected = dropping.PlainQwen2(model.model).logits(tokens, [99] * LAYERS, dropping.fastv)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.data())
def test_frame_counts_have_the_exact_total_and_fit_the_frames(unique: list[float], data: st.DataObject) -> None:
    most = data.draw(st.integers(1, 50))
    keep = data.draw(st.integers(1, most))
    counts = frame_counts(np.array(unique), keep, most)
    assert sum(counts) == keep * len(unique)
    assert all(0 <= count <= most for count in counts)


@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_evs_clip_of_any_clip_equals_the_plain_method(frames: int, tokens: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, tokens))
    steps = data.draw(st.lists(st.integers(-2, 2), min_size=frames * tokens, max_size=frames * tokens))
    angles = 0.3 * np.array(steps, np.float32).reshape(frames, tokens).cumsum(axis=0)
    clip = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    found = evs_clip(torch.from_numpy(clip), keep)
    assert sum(map(len, found)) == max(tokens, frames * keep)
    assert found[0].tolist() == list(range(tokens))
    # Steps of 0.3 and 0.6 are far apart; within a step rounding decides, so that what is compared is how far it goes.
    moved = np.abs(np.array(steps).reshape(frames, tokens))[1:]
    kept = [moved[number][rows.numpy()] for number, rows in enumerate(found[1:])]
    plain = [moved[number][rows] for number, rows in enumerate(dropping.evs(clip, keep)[1:])]
    assert sorted(np.concatenate([*kept, [0]])) == sorted(np.concatenate([*plain, [0]]))


def test_evs_clip_of_few_frames_keeps_the_first_whole_and_places_the_question_behind_it(model: TorchModel) -> None:
    reader = find_parts("evs_clip").reader(model, a_policy("evs_clip", 0.4), SINK)
    for frame in features()[:2]:
        reader.take(Seen(frame))
    found = reader.begin(asked(reader, model)).logits
    tokens = prompt_tokens(model, [list(range(9)), [], [], []])
    expected = dropping.PlainQwen2(model.model).logits(tokens, [99] * LAYERS, dropping.fastv)
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    with pytest.raises(ResourceError, match=r"holds 8 tokens .* need 12"):
        find_parts("evs_clip").reader(model, a_policy("evs_clip", 0.4, kv_tokens=3 + 5), SINK)


def test_vidcom2_clip_keeps_more_of_the_frame_that_is_unlike_the_others() -> None:
    clip = torch.ones(4, 10, 8) + 0.01 * torch.randn(4, 10, 8, generator=torch.Generator().manual_seed(0))
    clip[2] = -clip[2]
    counts = [len(kept) for kept in vidcom2_clip(clip, 4)]
    assert counts == [3, 3, 7, 3]  # 4 (1 + 1 - 1/4) = 7, and 4 (1 - 1/4) = 3


@pytest.mark.parametrize("merges", [[0, 0, 0], [5, 5, 5], [12, 6, 3]])
def test_tome_equals_the_plain_method(merges: list[int], model: TorchModel) -> None:
    layers = [dict(layer.named_parameters()) for layer in model.vision_layers]
    start = torch.randn(25, 32, generator=torch.Generator().manual_seed(8))
    expected = merged(Encoder(layers, 2, 1e-6), start, merges)
    torch.testing.assert_close(merged_pass(model.vision_layers, start, tuple(merges)), expected, rtol=0, atol=5e-5)


@given(st.integers(2, 200), st.integers(1, 30), st.floats(0.01, 1.0))
def test_merge_schedule_is_the_smallest_that_keeps_no_more(tokens: int, layers: int, keep: float) -> None:
    def left_over(most: int) -> int:
        left, total = tokens, 0
        for _ in range(layers):
            left -= min(most, left // 2)
            total += left
        return total

    try:
        merges = merge_schedule(tokens, layers, keep)
    except PolicyError:
        assert left_over(tokens) > keep * layers * tokens
        return
    most = max(merges)
    assert left_over(most) <= keep * layers * tokens + 1e-6
    assert most == 0 or left_over(most - 1) > keep * layers * tokens


def test_tome_refuses_a_gate_and_attention_without_a_bias(model: TorchModel) -> None:
    policy = a_policy("tome", 0.6)
    with pytest.raises(PolicyError, match=r'gate.mode is "adaptive"'):
        TomeEncoder(model, replace(policy, gate=GatePolicy()))
    with pytest.raises(UnsupportedError, match="flash_attention_2 cannot"):
        TomeEncoder(replace(model, form=ATTENTIONS["flash_attention_2"]), policy)
    assert TomeEncoder(model, policy) is not None


@pytest.mark.parametrize("name", ["fastv", "vidcom2_clip"])
def test_late_reader_forgets_the_oldest_frames_and_refuses_a_long_question(name: str, model: TorchModel) -> None:
    reader = find_parts(name).reader(model, a_policy(name, 0.5, kv_tokens=3 + 2 * 4 + 1), SINK)
    assert [reader.take(Seen(frame)).evicted for frame in features()] == [0, 0, 1, 1]
    last = find_parts(name).reader(model, a_policy(name, 0.5), SINK)
    for frame in features()[-2:]:
        last.take(Seen(frame))
    question = asked(reader, model)
    np.testing.assert_array_equal(reader.begin(question).logits, last.begin(question).logits)
    with pytest.raises(QuestionError, match="fit beside one token"):
        reader.begin(model.embed([5] * 40))


def test_table_names_every_method_with_a_reason_that_the_error_tells() -> None:
    assert set(PARTS) == set(REFERENCE_METHODS)
    with pytest.raises(
        UnsupportedError, match=r'"fastv" runs in the reference only: it ranks .* Add --reference torch'
    ):
        check_exportable("fastv")
    check_exportable("vidcom2")


def test_budget_of_a_method_that_decides_itself_is_refused() -> None:
    check_budget(PrunerPolicy("evs", budget="dtd"))
    check_budget(PrunerPolicy("evs_clip"))
    with pytest.raises(PolicyError, match=r'pruner\.budget is "dtd", but "fastv" decides itself'):
        check_budget(PrunerPolicy("fastv", budget="dtd"))
