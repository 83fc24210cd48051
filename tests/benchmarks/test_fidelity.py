from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stc_export.pipeline.bench.record import read_environment
from stc_export.spec.dims import VisionDims
from stc_export.spec.errors import UsageError
from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy
from stc_runtime.gate import Decision

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = VisionDims(image_size=56, patch_size=14, width=12, mlp_width=20, heads=2, layers=3)  # T = 16
SELECTIONS = ("gate", "per_layer", "shared")


@pytest.fixture(scope="module")
def fidelity() -> Iterator[Any]:
    """The script as a module; its neighbours are imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("fidelity")
        for name in ("fidelity", "fidelity_policies", "dinov2"):
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def dinov2(fidelity: Any) -> Any:
    return sys.modules["dinov2"]


@pytest.fixture(scope="module")
def model(dinov2: Any) -> Any:
    torch.manual_seed(0)
    made = dinov2.DinoV2(TINY, trained_grid=5).eval()
    for parameter in made.parameters():
        parameter.requires_grad_(False).normal_(0.0, 0.5)
    return made


def frames(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (56, 56, 3), dtype=np.uint8) for _ in range(count)]


def close(found: Any, expected: Any) -> bool:
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


# --- The encoder


def test_dense_is_what_the_layers_of_torch_compute(model: Any) -> None:
    x = model.start(model.embed(frames(1)[0]))[None]
    for layer in model.blocks:
        own = torch.nn.MultiheadAttention(12, 2, batch_first=True)
        own.in_proj_weight.data, own.in_proj_bias.data = layer.attn.qkv.weight, layer.attn.qkv.bias
        own.out_proj.weight.data, own.out_proj.bias.data = layer.attn.proj.weight, layer.attn.proj.bias
        normed = layer.norm1(x)
        x = x + own(normed, normed, normed)[0] * layer.ls1.gamma
        hidden = torch.nn.GELU()(layer.mlp.fc1(layer.norm2(x)))
        x = x + layer.mlp.fc2(hidden) * layer.ls2.gamma
    assert close(model.dense(model.embed(frames(1)[0])), model.norm(x)[0, 5:].detach())


def test_embed_is_the_product_of_each_patch(model: Any) -> None:
    frame = frames(1)[0]
    pixels = (frame / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    weight, bias = (part.numpy() for part in (model.patch_embed.proj.weight, model.patch_embed.proj.bias))
    patch = pixels[14:28, 28:42]  # row 1, column 2 of the grid of 4
    expected = np.einsum("hwc,dchw->d", patch, weight) + bias
    assert np.abs(model.embed(frame)[6].numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def test_positions_on_the_trained_grid_are_the_trained_ones(dinov2: Any) -> None:
    model = dinov2.DinoV2(TINY, trained_grid=4)
    model.pos_embed.data.normal_()
    assert torch.equal(model.positions(), model.pos_embed[0, 1:])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_passes_over_all_tokens_are_dense(dinov2: Any, model: Any, selection: str) -> None:
    first, second = (model.embed(frame) for frame in frames(2))
    everything = torch.arange(16)
    features, cache = dinov2.PASSES[selection](model, first, everything, None)
    assert close(features, model.dense(first))
    features, _ = dinov2.PASSES[selection](model, second, everything, cache)
    assert close(features, model.dense(second))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_passes_over_an_unchanged_frame_are_dense_whatever_is_recomputed(
    dinov2: Any, model: Any, selection: str
) -> None:
    embeddings = model.embed(frames(1)[0])
    _, cache = dinov2.PASSES[selection](model, embeddings, torch.arange(16), None)
    features, _ = dinov2.PASSES[selection](model, embeddings, torch.tensor([2, 7]), cache)
    assert close(features, model.dense(embeddings))


def test_gate_pass_tokens_that_are_not_named_keep_their_delta(dinov2: Any, model: Any) -> None:
    first, second = (model.embed(frame) for frame in frames(2))
    _, cache = dinov2.gate_pass(model, first, torch.arange(16), None)
    features, _ = dinov2.gate_pass(model, second, torch.tensor([3]), cache)
    expected = model.norm(model.start(second) + cache.delta[0])[5:]
    others = [index for index in range(16) if index != 3]
    assert close(features[others], expected[others])
    assert not close(features[3], expected[3])


def test_carried_over_is_the_plain_rule(dinov2: Any, model: Any) -> None:
    first, second = (model.embed(frame) for frame in frames(2))
    _, cache = dinov2.gate_pass(model, first, torch.arange(16), None)
    indices, random = np.array([3, 7, 12]), np.random.default_rng(0)
    gain, drift = random.random((2, 3), np.float32)
    raw, made = dinov2.gate_pass(model, second, torch.from_numpy(indices), cache)
    decision = Decision("selective", indices, gain, drift)
    features, after = dinov2.carried(model, second, decision, cache, (raw, made))
    old, new = cache.delta[0], made.delta[0]
    moved = sum(drift[row] * (new[5 + i] - old[5 + i]) for row, i in enumerate(indices))
    for token in range(16):
        place = 5 + token
        if token in indices:
            share = gain[list(indices).index(token)]
            assert torch.allclose(after.delta[0][place], share * new[place] + (1 - share) * old[place], atol=1e-5)
            assert torch.allclose(features[token], raw[token], atol=1e-5)
        else:
            assert torch.allclose(after.delta[0][place], old[place] + moved, atol=1e-5)
            expected = model.norm(model.start(second)[place] + old[place] + moved)
            assert torch.allclose(features[token], expected, atol=1e-4)
    assert torch.equal(after.delta[0][:5], new[:5])


def test_per_layer_ranks_in_each_layer_and_shared_in_the_first_only(dinov2: Any, model: Any) -> None:
    first, second = (model.embed(frame) for frame in frames(2))
    found = {}
    for selection in ("per_layer", "shared"):
        _, cache = dinov2.PASSES[selection](model, first, torch.arange(16), None)
        _, after = dinov2.PASSES[selection](model, second, torch.arange(4), cache)
        found[selection] = [
            frozenset(torch.nonzero((new != old).any(-1)).flatten().tolist())
            for new, old in zip(after.mlp, cache.mlp, strict=True)
        ]
    assert all(len(rows) == 5 + 4 for rows in found["per_layer"] + found["shared"])
    assert len(set(found["shared"])) == 1
    assert len(set(found["per_layer"])) > 1


# --- Streams


def made_clip(fidelity: Any, model: Any, shown: tuple[int, ...]) -> Any:
    """A clip that shows these of four frames, in order."""
    embeddings = tuple(model.embed(frames(4)[number]) for number in shown)
    return fidelity.Clip("vtest", embeddings, tuple(model.dense(one) for one in embeddings))


def test_run_of_the_paper_is_full_every_second_frame(fidelity: Any, model: Any) -> None:
    policy = Policy(gate=GatePolicy(mode="paper"), cacher=CacherPolicy(selection="per_layer", interval=2))
    done = fidelity.Encoder(model, made_clip(fidelity, model, (0, 1, 2, 3))).run("paper", policy)
    assert done.modes == ("full", "selective", "full", "selective")
    assert done.recomputed == (16, 4, 16, 4)
    assert done.cosines[::2] == pytest.approx((1.0, 1.0), abs=1e-5)
    assert max(done.cosines[1::2]) < 0.999


def test_run_adaptive_skips_what_does_not_change_and_keeps_its_features(fidelity: Any, model: Any) -> None:
    done = fidelity.Encoder(model, made_clip(fidelity, model, (0, 0, 0, 1))).run("adaptive", Policy())
    assert done.modes == ("full", "full", "skip", "full")
    assert done.cosines == pytest.approx((1.0,) * 4, abs=1e-5)


@pytest.mark.parametrize("update", ["reference", "rolling"])
def test_run_compares_with_the_frame_that_last_wrote_the_cache(fidelity: Any, model: Any, update: str) -> None:
    # Frame 1, then 1 again: with a rolling cache what was recomputed first is not among the most changed again.
    policy = Policy(
        gate=GatePolicy(mode="paper"),
        cacher=CacherPolicy(selection="gate", update=update, interval=4, update_ratio=0.5),
    )
    clip = made_clip(fidelity, model, (0, 1, 1))
    _, second, third = (set(one.indices.tolist()) for one in fidelity.schedule(policy, clip.embeddings))
    assert len(second) == len(third) == 8
    assert second & third == (set() if update == "rolling" else second)
    done = fidelity.Encoder(model, clip).run("made", policy)
    # Both halves recomputed: still not dense, since the first half saw the second one's old keys.
    assert (done.cosines[2] > done.cosines[1]) == (update == "rolling")


def test_run_of_an_uncompressed_policy_has_fidelity_one(fidelity: Any, model: Any) -> None:
    encoder = fidelity.Encoder(model, made_clip(fidelity, model, (0, 1, 2)))
    done = encoder.run("off", Policy(gate=GatePolicy(mode="off")))
    assert done.modes == ("full",) * 3
    assert done.cosines == pytest.approx((1.0,) * 3, abs=1e-5)


def test_run_after_others_is_the_run_on_its_own(fidelity: Any, model: Any) -> None:
    clip = made_clip(fidelity, model, (0, 1, 2, 3, 0))
    shared = fidelity.Encoder(model, clip)
    for name, policy in fidelity.policies().items():
        assert shared.run(name, policy) == fidelity.Encoder(model, clip).run(name, policy)


# --- Figures and files


def made_run(fidelity: Any, name: str = "adaptive", recomputed: tuple[int, ...] = (729, 182, 0)) -> Any:
    modes = tuple({729: "full", 0: "skip"}.get(count, "selective") for count in recomputed)
    return fidelity.Run("vtest", name, fidelity.policies()[name], modes, recomputed, (1.0, 0.98, 0.9))


def test_score_of_a_full_a_selective_and_a_skipped_frame(fidelity: Any) -> None:
    found = fidelity.score(fidelity.VISION, made_run(fidelity))
    assert found.cost == pytest.approx((1 + 182 / 729) / 3)
    assert found.mean == pytest.approx(0.96)
    assert found.worst == 0.9
    assert found.selective == pytest.approx(0.94)


def test_score_per_layer_pays_for_the_keys_of_all_tokens(fidelity: Any) -> None:
    found = fidelity.score(fidelity.VISION, made_run(fidelity, "paper N=4 R=25%"))
    # Per token: 4 C^2 + 2 C mlp + 2 T C with C = 384, mlp = 1536, T = 729.
    token, key = 4 * 384**2 + 2 * 384 * 1536 + 2 * 729 * 384, 384**2
    assert found.cost == pytest.approx((1 + (182 * token + 547 * key) / (729 * token)) / 3)


def test_paper_at_is_on_straight_lines_up_to_dense(fidelity: Any) -> None:
    only = made_run(fidelity, "paper N=2 R=25%")
    cost = fidelity.score(fidelity.VISION, only).cost
    runs = [only, made_run(fidelity)]
    assert fidelity.paper_at(fidelity.VISION, runs, cost) == pytest.approx(0.96)
    assert fidelity.paper_at(fidelity.VISION, runs, (1 + cost) / 2) == pytest.approx(0.98)
    assert fidelity.paper_at(fidelity.VISION, runs, 0.0) == pytest.approx(0.96)


def test_saved_is_read_off_the_curve_of_the_default(fidelity: Any) -> None:
    published = made_run(fidelity, "paper N=4 R=25%")
    gate = replace(Policy().gate, max_interval=16)
    cheap = replace(made_run(fidelity, recomputed=(729, 0, 0)), policy=replace(Policy(), gate=gate))
    cheap = replace(cheap, name="16", cosines=(1.0, 0.95, 0.9))  # mean .95 for 1/3
    near = replace(made_run(fidelity), cosines=(1.0, 0.98, 0.96))  # mean .98 for (1 + 182 / 729) / 3
    other = replace(near, name="other", policy=Policy(gate=GatePolicy(tau=0.5)), cosines=(0.96, 0.96, 0.96))
    third = (1 + 182 / 729) / 3
    expected = fidelity.score(fidelity.VISION, published).cost / (1 / 3 + (third - 1 / 3) / 3)  # at .96
    found = fidelity.saved(fidelity.VISION, [published, near, cheap, other], 4)
    assert found == pytest.approx(expected)


def fresh(fidelity: Any) -> Any:
    environment = read_environment(1, None)
    return fidelity.Record(
        fidelity.SCHEMA, "fidelity.py", fidelity.WEIGHTS.sha256, fidelity.VISION, 2.0, 24, (), environment, ()
    )


def test_record_is_continued_where_it_ended(fidelity: Any, tmp_path: Path) -> None:
    path, start = tmp_path / "out.json", fresh(fidelity)
    fidelity.write_record(start, path)
    assert fidelity.read_record(path, start) == start
    record = fidelity.with_run(start, made_run(fidelity))
    fidelity.write_record(record, path)
    again = fidelity.read_record(path, start)
    assert again == record
    assert again.clips[0].startswith("vtest 45cddc94")
    every = tuple(fidelity.policies())
    assert set(every) - set(fidelity.missing(again, "vtest", every)) == {"adaptive"}
    assert set(fidelity.missing(again, "bikes", every)) == set(every)
    assert set(fidelity.missing(again, "bikes", ("fast", "adaptive"))) == {"fast", "adaptive"}


def test_record_with_a_policy_that_changed_is_run_again(fidelity: Any) -> None:
    old = replace(made_run(fidelity), policy=Policy(gate=GatePolicy(tau=0.5)))
    record = fidelity.with_run(fresh(fidelity), old)
    assert "adaptive" in fidelity.missing(record, "vtest", ("adaptive",))
    assert fidelity.with_run(record, made_run(fidelity)).runs == (made_run(fidelity),)


@pytest.mark.parametrize("text", ["", "[1]", '{"schema": 1}', "\x00"])
def test_read_record_of_something_else_is_refused(fidelity: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be continued"):
        fidelity.read_record(path, fresh(fidelity))


def test_read_record_of_other_frames_is_refused(fidelity: Any, tmp_path: Path) -> None:
    fidelity.write_record(fresh(fidelity), tmp_path / "out.json")
    with pytest.raises(UsageError, match="other weights, sizes, frames or rate"):
        fidelity.read_record(tmp_path / "out.json", replace(fresh(fidelity), frames=12))


def test_table_has_a_line_per_run(fidelity: Any) -> None:
    lines = fidelity.table(fidelity.VISION, [made_run(fidelity, "paper N=2 R=25%"), made_run(fidelity)]).splitlines()
    assert lines[3] == "| adaptive | 0.417 | 0.9600 | 0.9000 | 0.9400 | +0.0000 |"
    assert len(lines) == 4


def test_policies_start_with_the_published_curve_and_hold_the_default(fidelity: Any) -> None:
    found = fidelity.policies()
    assert found["adaptive"] == Policy()
    assert [name for name in found if name.startswith("paper")] == [f"paper N={n} R=25%" for n in (2, 3, 4, 8, 16)]
    published = found["paper N=2 R=25%"].cacher
    assert (published.selection, published.update, published.update_ratio) == ("per_layer", "reference", 0.25)
    assert len(set(found.values())) == len(found)
