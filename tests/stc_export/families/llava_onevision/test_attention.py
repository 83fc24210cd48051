"""The attention that ``vit`` gives when asked, and the pruning method that ranks by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from stc_calib.pictures import real_frames
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import SELECTIONS
from stc_runtime.encoder import selection_feeds
from stc_runtime.gate import Decision
from tests.reference import selective_vit as reference
from tests.reference.pruners import visionzip
from tests.stc_export.families.llava_onevision.model import Pair, pixels, relative_error
from tests.stc_export.families.llava_onevision.test_full import embedded, empty_state, features, video_tokens
from tests.stc_export.families.llava_onevision.test_selective import Graph, Plain, Subject

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tiny_whole_bundle: Path) -> Pair:
    return Pair.open(tiny_checkpoint, tiny_whole_bundle)


@pytest.fixture(scope="module")
def subject(tiny_checkpoint: Path, tiny_whole_bundle: Path) -> Subject:
    return Subject.open(tiny_checkpoint, tiny_whole_bundle)


def attention(pair: Pair, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """By transformers, in the layer whose output the LLM sees: the mean over heads and queries."""
    tower = pair.reference.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        weights = tower(pixels(frame), output_attentions=True).attentions
    return np.asarray(weights[pair.reference.config.vision_feature_layer][0].double().mean(dim=(0, 1)).numpy())


@pytest.mark.parametrize("selection", SELECTIONS)
def test_full_pass_gives_the_attention_of_transformers_and_the_same_features(whole: Pair, selection: str) -> None:
    frame, patches = real_frames(70)[0], embedded(whole, real_frames(70)[0])
    indices = np.arange(len(patches), dtype=np.int64)
    feeds = {
        "patch_embeddings": patches,
        **selection_feeds(selection, Decision.overwriting("full", indices)),
        **empty_state(whole, selection),
    }
    found = whole.run("vit", selection, feeds)
    assert relative_error(found["attention"], attention(whole, frame)) <= TOLERANCE
    assert relative_error(found["features"], features(whole, frame)) <= TOLERANCE
    assert found["attention"].sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("count", [1, 6, 25])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_selective_pass_gives_what_the_recomputed_tokens_attend_to(
    subject: Subject, selection: str, count: int
) -> None:
    plain, graph = Plain(subject, selection, "rolling"), Graph(subject, selection, "rolling")
    (first, _), (second, order) = subject.frames(2)
    for side in (plain, graph):
        side.encode(first, np.arange(25, dtype=np.int64))
    x0, indices = torch.from_numpy(second).double() + subject.position, np.sort(order[:count])
    state = plain.state
    expected = {
        "gate": lambda: reference.gate_attention(subject.encoder, x0, state, torch.from_numpy(indices)),
        "per_layer": lambda: reference.ranked_attention(subject.encoder, x0, state, count, rank_each_layer=True),
        "shared": lambda: reference.ranked_attention(subject.encoder, x0, state, count, rank_each_layer=False),
    }[selection]()
    graph.encode(second, indices)
    assert relative_error(graph.attention, expected) <= TOLERANCE


def keys(pair: Pair, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By transformers, those of the last layer, projected from what goes into it: [heads, T, head_dim]."""
    tower = pair.reference.model.vision_tower
    with torch.no_grad():
        into = tower(pixels(frame), output_hidden_states=True).hidden_states[-2][0]
        found = tower.encoder.layers[-1].self_attn.k_proj(tower.encoder.layers[-1].layer_norm1(into))
    heads = pair.manifest.dims.vision.heads
    return np.ascontiguousarray(found.unflatten(-1, (heads, -1)).transpose(0, 1).numpy())


@pytest.mark.parametrize("keep", [1, 3, 4, 9])
def test_visionzip_keeps_and_merges_by_what_is_resized_like_the_tokens(whole: Pair, keep: int) -> None:
    """Scores and keys of the 5 x 5 grid are resized to 3 x 3 (there 27 to 14), as STC's port of VisionZip does."""
    frame = real_frames(70)[0]
    scores, heads = attention(whole, frame), keys(whole, frame)
    mean = torch.from_numpy(heads).double().mean(dim=0).T.reshape(1, -1, 5, 5)
    resized, metric = (
        interpolate(x, (3, 3), mode="bilinear").flatten(2)[0].T.numpy()
        for x in (torch.from_numpy(scores).reshape(1, 1, 5, 5), mean)
    )
    feeds = {
        "features": features(whole, frame),
        "attention": scores.astype(np.float32),
        "keys": heads,
        "carrier": np.zeros(keep, np.int64),
    }
    found = whole.run("pruner", "visionzip", feeds)
    expected, indices = visionzip(video_tokens(whole, (frame,))[:-1], resized[:, 0], metric, keep)
    assert keep == 9 or np.diff(np.sort(resized[:, 0]))[8 - keep] > 1e-6  # rounding does not decide
    np.testing.assert_array_equal(found["kept_indices"], indices)
    assert relative_error(found["visual_tokens"], expected) <= TOLERANCE


def test_default_bundle_has_neither_attention_nor_the_method(tiny_bundle: Path, tiny_whole_bundle: Path) -> None:
    plain, whole = read_manifest(tiny_bundle), read_manifest(tiny_whole_bundle)
    added = {g.variant for g in whole.graphs if g.role == "pruner"} - {
        g.variant for g in plain.graphs if g.role == "pruner"
    }
    assert added == {"visionzip"}
    for manifest, gives in ((plain, False), (whole, True)):
        outputs = [{spec.name for spec in graph.outputs} for graph in manifest.graphs if graph.role == "vit"]
        assert all(("attention" in names) is gives for names in outputs)
    passed = [row for row in whole.parity if row.graph == "graphs/vit.gate.onnx" and row.case == "full"]
    assert {(row.output, row.passed) for row in passed[0].outputs} == {("features", True), ("attention", True)}
