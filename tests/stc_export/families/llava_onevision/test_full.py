"""Every graph without compression against transformers: embeddings, features, visual tokens, logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from stc_calib.pictures import real_frames
from stc_export.spec.interface import in_place
from stc_export.spec.manifest import SELECTION_INPUTS
from stc_runtime.encoder import selection_feeds
from stc_runtime.gate import Decision
from tests.stc_export.families.llava_onevision.model import Pair, pixels, relative_error

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_runtime.backends.base import Engine

TOLERANCE = 1e-4
HIDDEN = -65504.0


@pytest.fixture(scope="module", params=["tiny", "untied", "siglip", "tiny_modern"])
def pair(request: pytest.FixtureRequest) -> Pair:
    checkpoint = request.param.removesuffix("_modern")
    return Pair.open(
        request.getfixturevalue(f"{checkpoint}_checkpoint"), request.getfixturevalue(f"{request.param}_bundle")
    )


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path, tiny_bundle: Path) -> Pair:
    return Pair.open(tiny_checkpoint, tiny_bundle)


@pytest.fixture(scope="module")
def frames(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return real_frames(pair.manifest.dims.vision.image_size)


def embedded(pair: Pair, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Patch embeddings [T, C] without positions, by transformers."""
    with torch.no_grad():
        convolved = pair.reference.model.vision_tower.embeddings.patch_embedding(pixels(frame))
    return np.ascontiguousarray(convolved[0].flatten(1).T.numpy())


def features(pair: Pair, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features [T, C] of the layer that the LLM sees, by transformers."""
    with torch.no_grad():
        out = pair.reference.model.vision_tower(pixels(frame), output_hidden_states=True)
    return np.ascontiguousarray(out.hidden_states[pair.reference.config.vision_feature_layer][0].numpy())


def video_tokens(pair: Pair, frames: tuple[NDArray[np.uint8], ...]) -> NDArray[np.float32]:
    """Visual tokens of all frames and the newline at the end [F * M + 1, D], by transformers."""
    video = torch.stack([pixels(frame)[0] for frame in frames])[None]
    with torch.no_grad():
        return np.asarray(pair.reference.model.get_video_features(video).pooler_output[0].numpy())


def empty_state(pair: Pair, selection: str) -> dict[str, NDArray[Any]]:
    inputs = pair.manifest.graph("vit", selection).inputs
    return {s.name: np.zeros(s.static_shape, s.dtype) for s in inputs if s.name.endswith("_in")}


def full_pass(pair: Pair, selection: str, patches: NDArray[Any], state: dict[str, Any]) -> dict[str, NDArray[Any]]:
    tokens = np.arange(len(patches), dtype=np.int64)
    feeds = {"patch_embeddings": patches, **selection_feeds(selection, Decision.overwriting("full", tokens)), **state}
    return pair.run("vit", selection, feeds)


def test_gate_embeds_like_transformers(pair: Pair, frames: tuple[NDArray[np.uint8], ...]) -> None:
    expected = embedded(pair, frames[0])
    found = pair.run("cacher_gate", "default", {"frame": frames[0], "reference": np.zeros_like(expected)})
    assert relative_error(found["patch_embeddings"], expected) <= TOLERANCE
    assert not found["similarity"].any()
    assert np.isfinite(found["statistics"]).all()


def test_gate_compares_like_numpy(pair: Pair, frames: tuple[NDArray[np.uint8], ...]) -> None:
    before, now = (embedded(pair, frame).astype(np.float64) for frame in frames)
    cosine = (before * now).sum(1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(now, axis=1))
    change = np.linalg.norm(now - before) / np.linalg.norm(before)
    found = pair.run("cacher_gate", "default", {"frame": frames[1], "reference": before.astype(np.float32)})
    np.testing.assert_allclose(found["similarity"], cosine, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["statistics"], [cosine.mean(), cosine.min(), change], rtol=1e-4)
    assert cosine.min() < 0.99 < cosine.max()


@pytest.mark.parametrize("selection", SELECTION_INPUTS)
def test_vit_with_all_tokens_gives_the_features_of_transformers(
    pair: Pair, frames: tuple[NDArray[np.uint8], ...], selection: str
) -> None:
    found = full_pass(pair, selection, embedded(pair, frames[0]), empty_state(pair, selection))
    assert relative_error(found["features"], features(pair, frames[0])) <= TOLERANCE


@pytest.mark.parametrize("selection", SELECTION_INPUTS)
def test_vit_with_all_tokens_forgets_the_frame_before(tiny: Pair, selection: str) -> None:
    first, second = (embedded(tiny, frame) for frame in real_frames(70))
    before = full_pass(tiny, selection, first, empty_state(tiny, selection))
    state = {name.removesuffix("_out") + "_in": value for name, value in before.items() if name != "features"}
    found, alone = (full_pass(tiny, selection, second, s) for s in (state, empty_state(tiny, selection)))
    assert max(relative_error(found[name], alone[name]) for name in found) <= 1e-5  # rows in another order


def test_pruner_none_gives_the_video_features_of_transformers(
    pair: Pair, frames: tuple[NDArray[np.uint8], ...]
) -> None:
    expected = video_tokens(pair, frames)
    found = [pair.run("pruner", "none", {"features": features(pair, frame)}) for frame in frames]
    together = np.concatenate(
        [*(one["visual_tokens"] for one in found), np.asarray(pair.table("newline")).reshape(1, -1)]
    )
    assert relative_error(together, expected) <= TOLERANCE
    assert all((one["kept_indices"] == np.arange(len(one["visual_tokens"]))).all() for one in found)


@pytest.mark.parametrize("method", ["random", "stc_gaussian", "stc_dual_anchor", "stride", "vidcom2", "vcast", "evs"])
def test_pruner_that_keeps_all_gives_the_video_features_of_transformers(
    pair: Pair, frames: tuple[NDArray[np.uint8], ...], method: str
) -> None:
    expected = video_tokens(pair, frames[:1])[:-1]
    width = pair.manifest.pruner(method).history_width
    feeds = {
        "features": features(pair, frames[0]),
        "history": np.zeros((1, width), np.float32),
        "history_weights": np.zeros(1, np.float32),
        "carrier": np.zeros(len(expected), np.int64),
        "alpha": np.array([0.5], np.float32),
        "noise": np.zeros(len(expected), np.float32),
    }
    names = {spec.name for spec in pair.manifest.graph("pruner", method).inputs}
    found = pair.run("pruner", method, {name: value for name, value in feeds.items() if name in names})
    assert relative_error(found["visual_tokens"], expected) <= TOLERANCE


class Stream:
    """The LLM with its cache, held in buffers that are longer than what they hold and full of something else.

    ``slots`` is their length where the graph leaves it open.
    """

    def __init__(self, pair: Pair, slots: int) -> None:
        text = pair.manifest.dims.text
        self.graph = pair.manifest.graph("llm")
        slots = next(
            int(s.shape[1]) if s.shape[1] != "P" else slots for s in self.graph.inputs if s.name == "past_bias"
        )
        self.engine: Engine = pair.engine("llm")
        self.layers, self.used = text.layers, 0
        shape = (1, text.kv_heads, slots, text.head_dim)
        noise = np.random.default_rng(0)
        names = [f"{kind}_{layer}" for kind in ("key", "value") for layer in range(text.layers)]
        self.past = {name: noise.standard_normal(shape, dtype=np.float32) * 10 for name in names}

    def run(self, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [V] after the new embeddings [S, D]."""
        count, slots = len(embeds), next(iter(self.past.values())).shape[2]
        bias = np.full((1, slots), HIDDEN, np.float32)
        bias[:, : self.used] = 0
        feeds = {
            "inputs_embeds": np.ascontiguousarray(embeds)[None],
            "position_ids": np.arange(self.used, self.used + count, dtype=np.int64)[None],
            "past_bias": bias,
            **{f"{name}_in": buffer for name, buffer in self.past.items()},
        }
        if in_place(self.graph):
            feeds["write_slot"] = np.array([self.used])
            outputs = self.engine.run(feeds, {f"{name}_out": buffer for name, buffer in self.past.items()})
        else:
            outputs = self.engine.run(feeds, {})
            for name, buffer in self.past.items():
                buffer[:, :, self.used : self.used + count] = outputs[f"{name}_out"]
        self.used += count
        logits: NDArray[np.float32] = outputs["logits"][0]
        return logits


def conversation(pair: Pair, frames: tuple[NDArray[np.uint8], ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embeddings [S, D] of text, video and text as this project makes them, and transformers' logits [S, V]."""
    before, after = [1, 2, 3, 400], [5, 6, 7, 8, 9, 410, 11]
    video = len(frames) * pair.manifest.dims.vision.visual_tokens + 1
    ids = torch.tensor([[*before, *[pair.reference.config.video_token_id] * video, *after]])
    with torch.no_grad():
        pixel_values = torch.stack([pixels(frame)[0] for frame in frames])[None]
        logits = pair.reference(input_ids=ids, pixel_values_videos=pixel_values).logits[0].numpy()
    embed = pair.table("embed")
    visual = []
    for frame in frames:
        patches = pair.run(
            "cacher_gate", "default", {"frame": frame, "reference": np.zeros_like(embedded(pair, frame))}
        )
        full = full_pass(pair, "gate", patches["patch_embeddings"], empty_state(pair, "gate"))
        visual.append(pair.run("pruner", "none", {"features": full["features"]})["visual_tokens"])
    newline = np.asarray(pair.table("newline")).reshape(1, -1)
    return np.concatenate([embed[before], *visual, newline, embed[after]]), logits


@pytest.fixture(scope="module")
def asked(pair: Pair, frames: tuple[NDArray[np.uint8], ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return conversation(pair, frames)


def test_llm_prefill_and_decode_give_the_logits_of_transformers(
    pair: Pair, asked: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    """From pixels to logits: everything before is ours too."""
    embeds, expected = asked
    stream = Stream(pair, slots=len(embeds) + 13)
    first = len(embeds) - 4
    assert relative_error(stream.run(embeds[:first]), expected[first - 1]) <= TOLERANCE
    for index in range(first, len(embeds)):
        assert relative_error(stream.run(embeds[index : index + 1]), expected[index]) <= TOLERANCE


@pytest.mark.parametrize("pieces", [2, 5])
def test_llm_prefill_in_pieces_gives_the_logits_of_one_prefill(
    pair: Pair, asked: tuple[NDArray[np.float32], NDArray[np.float32]], pieces: int
) -> None:
    embeds, expected = asked
    stream = Stream(pair, slots=len(embeds))
    for part in np.array_split(embeds, pieces):
        logits = stream.run(part)
    assert relative_error(logits, expected[-1]) <= TOLERANCE


def test_llm_does_not_see_unused_slots(pair: Pair, asked: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
    embeds, _ = asked
    short, long = Stream(pair, slots=20), Stream(pair, slots=64)
    assert relative_error(short.run(embeds[:9]), long.run(embeds[:9])) <= 1e-6
