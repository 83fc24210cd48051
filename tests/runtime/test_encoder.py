"""Full, selective and skipped frames through whole sessions, against a plain encoder with transformers' weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from stc_export.spec.errors import BundleError
from stc_export.spec.policy import (
    CacherPolicy,
    GatePolicy,
    MemoryPolicy,
    Policy,
    PrunerPolicy,
    named_policies,
)
from stc_runtime import Bundle, FrameReport, Model, StreamSession
from stc_runtime.testing import FakeBackend
from stc_runtime.video import read_frames
from tests.reference import selective_vit
from tests.runtime.scenes import Recorder, scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_export.spec.policy import CacheUpdate, Metric, Selection
    from tests.reference.eager_stream import Reference
    from tests.runtime.conftest import Pair

ALL_TOKENS = PrunerPolicy(method="none", keep=1.0)
SELECTIONS = ["gate", "per_layer", "shared"]
UPDATES = ["rolling", "reference"]


def paper(selection: Selection, update: CacheUpdate, interval: int, ratio: float, metric: Metric = "cosine") -> Policy:
    cacher = CacherPolicy(selection, update, interval, ratio, metric)
    return Policy(GatePolicy(mode="paper"), cacher, ALL_TOKENS, MemoryPolicy(kv_tokens=500))


def check_counts(session: StreamSession, reports: list[FrameReport]) -> Counter[str]:
    """Modes, R, K and the memory agree with each other; returns how many frames had which mode."""
    kept = [report for report in reports if report.mode != "skip"]
    for report in reports:
        if report.mode == "skip":
            assert (report.recomputed, report.kept_tokens, report.evicted_frames) == (0, 0, 0)
            assert (report.vit_ms, report.pruner_ms, report.prefill_ms) == (0, 0, 0)
        else:
            assert (report.recomputed == 25) if report.mode == "full" else (0 < report.recomputed < 25)
            assert report.kept_tokens == kept[0].kept_tokens
        assert report.visual_tokens == 9
        assert report.gate_ms > 0
    evicted = sum(report.evicted_frames for report in reports)
    assert session.remembered_frames == len(kept) - evicted
    assert session.remembered_tokens == 3 + session.remembered_frames * kept[0].kept_tokens
    return Counter(report.mode for report in reports)


@pytest.fixture(scope="module")
def film(cockatoo: Path) -> list[tuple[NDArray[np.uint8], float]]:
    """110 frames of a real film with their times, a quarter as high and wide."""
    with read_frames(cockatoo, fps=8.0) as video:
        return [(frame[::4, ::4], seconds) for frame, seconds in islice(video, 110)]


@pytest.mark.network
def test_film_with_the_paper_policy_alternates_full_and_quarter(tiny_model: Model, film: list) -> None:
    session = StreamSession(tiny_model, named_policies()["paper"])
    reports = [session.push(*frame) for frame in film]
    assert len(reports) >= 100
    assert [report.mode for report in reports] == ["full", "selective"] * 55
    assert {report.recomputed for report in reports[1::2]} == {6}  # a quarter of 25, rounded down
    assert [report.time_s for report in reports] == [seconds for _, seconds in film]
    assert check_counts(session, reports) == {"full": 55, "selective": 55}


@pytest.mark.network
def test_film_with_the_adaptive_policy_uses_all_modes_and_counts_add_up(tiny_model: Model, film: list) -> None:
    gate = GatePolicy(tau=0.95, margin=0, floor=0.1, max_interval=8)
    session = StreamSession(tiny_model, Policy(gate=gate))
    reports = [session.push(*frame) for frame in film]
    counts = check_counts(session, reports)
    assert counts.total() == 110
    assert min(counts["full"], counts["selective"], counts["skip"]) > 0
    modes = [report.mode for report in reports]
    assert all("full" in modes[first : first + 8] for first in range(110 - 8))
    assert reports[0].change == np.inf
    # A frame is skipped when no token is below tau, hence neither is their mean.
    assert all(report.similarity >= gate.tau for report in reports if report.mode == "skip")


def test_still_scene_is_skipped_and_adds_no_tokens(tiny_model: Model) -> None:
    session = StreamSession(tiny_model, Policy(gate=GatePolicy(max_interval=8, warmup=1)))
    (frame,) = scene(1)
    sizes, reports = [], []
    for second in range(24):
        reports.append(session.push(frame, float(second)))
        sizes.append(session.remembered_tokens)
    assert [report.mode for report in reports] == (["full"] + ["skip"] * 7) * 3
    assert sizes == [6] * 8 + [9] * 8 + [12] * 8
    assert all(report.similarity == pytest.approx(1.0) for report in reports[1:])
    assert all(report.change == 0.0 for report in reports[1:])
    assert check_counts(session, reports) == {"full": 3, "skip": 21}


def test_every_stream_of_a_session_begins_with_a_warm_up(tiny_model: Model) -> None:
    session = StreamSession(tiny_model, Policy())
    (frame,) = scene(1)
    for _ in range(2):
        assert [session.push(frame, float(i)).mode for i in range(4)] == ["full", "full", "skip", "skip"]
        session.reset()


def test_small_change_is_recomputed_where_it_is_and_nothing_else(tiny_model: Model) -> None:
    session = StreamSession(tiny_model, Policy(gate=GatePolicy(margin=0, warmup=1)))
    (frame,) = scene(1)
    changed = frame.copy()
    changed[:12, :12] = 255 - changed[:12, :12]  # inside the first of 5 x 5 patches
    modes = [(r.mode, r.recomputed) for r in (session.push(f, 0.0) for f in (frame, changed, changed, frame))]
    assert modes == [("full", 25), ("selective", 1), ("skip", 0), ("selective", 1)]


def test_report_names_the_recomputed_tokens_of_a_selective_frame_in_raster_order(tiny_model: Model) -> None:
    session = StreamSession(tiny_model, Policy(gate=GatePolicy(tau=0.95, margin=0, warmup=1)))
    (frame,) = scene(1)  # 96 x 128: each of 5 x 5 tokens covers 19.2 x 25.6 pixels
    changed = frame.copy()
    for top, left in ((43, 82), (4, 56)):  # well inside row 2, column 3 and row 0, column 2
        changed[top : top + 11, left : left + 16] = 255 - changed[top : top + 11, left : left + 16]
    reports = [session.push(each, 0.0) for each in (frame, changed, changed, 255 - frame)]
    assert [report.mode for report in reports] == ["full", "selective", "skip", "full"]
    assert [report.recomputed_indices for report in reports] == [(), (2, 2 * 5 + 3), (), ()]
    assert {type(index) for index in (*reports[1].recomputed_indices, *reports[1].kept_indices)} == {int}
    assert [len(report.kept_indices) for report in reports] == [3, 3, 0, 3]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_report_names_tokens_only_where_the_gate_chose_them(tiny_model: Model, selection: Selection) -> None:
    session = StreamSession(tiny_model, paper(selection, "rolling", interval=4, ratio=0.25))
    reports = [session.push(frame, 0.0) for frame in scene(4)]
    assert [report.recomputed for report in reports] == [25, 6, 6, 6]
    assert [len(report.recomputed_indices) for report in reports] == [0, *[6 if selection == "gate" else 0] * 3]


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_selective_frame_that_recomputes_all_tokens_equals_a_full_one(
    tiny_bundle: Path, selection: Selection, update: CacheUpdate
) -> None:
    found = pushed(tiny_bundle, paper(selection, update, interval=4, ratio=1.0), scene(9))
    expected = pushed(tiny_bundle, named_policies()["off"], scene(9))
    assert [mode for mode, _ in found] == (["full"] + ["selective"] * 3) * 2 + ["full"]
    assert [mode for mode, _ in expected] == ["full"] * 9
    for (_, tokens), (_, wanted) in zip(found, expected, strict=True):
        np.testing.assert_allclose(tokens, wanted, rtol=0, atol=1e-4)


def pushed(bundle: Path, policy: Policy, frames: list[NDArray[np.uint8]]) -> list[tuple[str, NDArray[np.float32]]]:
    """Mode and visual tokens of each frame."""
    recorder = Recorder()
    with StreamSession.open(bundle, policy, recorder) as session:
        modes = [session.push(frame, float(second)).mode for second, frame in enumerate(frames)]
    return list(zip(modes, recorder.embeds()[1:], strict=True))


def noisy_scene(count: int) -> list[NDArray[np.uint8]]:
    """Every token changes a little in every frame, so that no two similarities are nearly equal."""
    random = np.random.default_rng(3)
    noise = [random.normal(0, 12, (12, 16, 3)).repeat(8, 0).repeat(8, 1) for _ in range(count)]
    return [np.clip(f + n, 0, 255).astype(np.uint8) for f, n in zip(scene(count), noise, strict=True)]


class PlainCacher:
    """The cacher of a stream in torch: one full frame, then selective ones."""

    def __init__(
        self, reference: Reference, selection: Selection, update: CacheUpdate, metric: Metric = "cosine"
    ) -> None:
        self.model, self.selection, self.rolling = reference.model.model, selection, update == "rolling"
        self.metric = metric
        self.pixels = reference.pixels
        vision = reference.config.vision_config
        layers = [dict(layer.named_parameters()) for layer in self.model.vision_tower.encoder.layers]
        self.encoder = selective_vit.Encoder(layers, vision.num_attention_heads, vision.layer_norm_eps)

    @torch.no_grad()
    def visual_tokens(self, frame: NDArray[np.uint8], recomputed: int | None) -> NDArray[np.float32]:
        """Encode a frame, fully for ``None``; projected and pooled tokens [M, D]."""
        embeddings = self.model.vision_tower.embeddings
        x0 = embeddings(self.pixels([frame])[0])[0]
        patches = x0 - embeddings.position_embedding.weight
        if recomputed is None:
            features, state = selective_vit.full(self.encoder, x0)
            self.state = selective_vit.gate_state(state) if self.selection == "gate" else state
            self.patches = patches
        elif self.selection == "gate":
            chosen = selective_vit.least_similar(patches, self.patches, recomputed, self.metric)
            features, mixed = selective_vit.gate(self.encoder, x0, self.state, chosen)
            if self.rolling:
                self.state, self.patches = mixed, selective_vit.mix(self.patches, patches[chosen], chosen)
        else:
            step = getattr(selective_vit, self.selection)
            features, mixed, _ = step(self.encoder, x0, self.state, recomputed, self.metric)
            self.state = mixed if self.rolling else self.state
        return self.model.apply_pooling(self.model.multi_modal_projector(features[None]))[0].numpy()


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_selective_frames_of_a_stream_equal_the_plain_cacher(
    tiny_pair: Pair, selection: Selection, update: CacheUpdate
) -> None:
    frames = noisy_scene(12)
    found = pushed(tiny_pair.bundle, paper(selection, update, interval=6, ratio=0.3), frames)
    plain = PlainCacher(tiny_pair.reference, selection, update)
    assert [mode for mode, _ in found] == (["full"] + ["selective"] * 5) * 2
    for number, (frame, (_, tokens)) in enumerate(zip(frames, found, strict=True)):
        expected = plain.visual_tokens(frame, 7 if number % 6 else None)
        np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("metric", ["l1", "l2", "dot"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_selective_frames_with_another_metric_equal_the_plain_cacher(
    tiny_pair: Pair, tiny_whole_bundle: Path, selection: Selection, metric: Metric
) -> None:
    frames = noisy_scene(8)
    found = pushed(tiny_whole_bundle, paper(selection, "rolling", 4, 0.3, metric), frames)
    plain = PlainCacher(tiny_pair.reference, selection, "rolling", metric)
    for number, (frame, (_, tokens)) in enumerate(zip(frames, found, strict=True)):
        expected = plain.visual_tokens(frame, 7 if number % 4 else None)
        np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)


def test_frames_of_a_stream_differ_with_the_metric(tiny_whole_bundle: Path) -> None:
    """The metric reaches the graphs: the same frames recompute other tokens. (L1 and L2 choose the same ones here.)"""
    frames, chosen = noisy_scene(4), {}
    metrics: tuple[Metric, ...] = ("cosine", "l2", "dot")
    for metric in metrics:
        with StreamSession.open(tiny_whole_bundle, paper("gate", "rolling", 4, 0.3, metric)) as session:
            reports = [session.push(frame, float(second)) for second, frame in enumerate(frames)]
        chosen[metric] = tuple(report.recomputed_indices for report in reports)
        assert reports[1].similarity <= 1  # the mean cosine, whatever the metric
    assert len(set(chosen.values())) == len(metrics)


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ("gate", 'The bundle has no cacher_gate graph "l2"; it has: default.'),
        ("shared", 'The bundle has no vit graph "shared.l2"; it has: gate, per_layer, shared.'),
    ],
)
def test_metric_that_the_bundle_lacks_raises_and_says_how_to_build_it(
    tiny_bundle: Path, selection: Selection, told: str
) -> None:
    with pytest.raises(BundleError) as caught:
        StreamSession.open(tiny_bundle, paper(selection, "rolling", 4, 0.3, "l2"))
    assert caught.value.problem == told
    assert caught.value.fix == "Choose one of these in the policy, or build the bundle again with --metrics l2."


def test_selection_that_the_bundle_lacks_raises_and_names_those_it_has(tiny_bundle: Path) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    graphs = tuple(graph for graph in manifest.graphs if graph.variant != "per_layer")
    model = Model(Bundle(tiny_bundle, replace(manifest, graphs=graphs)), FakeBackend())
    with pytest.raises(BundleError) as caught:
        StreamSession(model, named_policies()["paper"])
    assert caught.value.problem == 'The bundle has no vit graph "per_layer"; it has: gate, shared.'
