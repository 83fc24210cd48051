"""Selective passes over moving scenes against the plain version in tests/reference, with the state that results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stc_export.spec.interface import metric_variant
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import METRIC_NAMES, SELECTIONS
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.encoder import selection_feeds
from stc_runtime.gate import Decision
from tests.reference import selective_vit as reference
from tests.stc_export.families.llava_onevision.model import relative_error, scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_export.spec.policy import Metric, Selection
    from stc_runtime.backends.base import Engine

TOLERANCE = 1e-4
UPDATES = ("reference", "rolling")
RATIOS = (0.05, 0.25, 0.5, 1.0)
FRAMES = 5
State = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Subject:
    """The plain encoder with the weights of a checkpoint, in float64, and its bundle."""

    encoder: reference.Encoder
    position: torch.Tensor
    bundle: Path
    layers: int
    image_size: int

    @classmethod
    def open(cls, directory: Path, bundle: Path) -> Subject:
        weights = {
            key.removeprefix("vision_tower."): value
            for key, value in load_file(directory / "model.safetensors").items()
        }
        weights = {key.removeprefix("vision_model."): value.double() for key, value in weights.items()}
        vision = read_manifest(bundle).dims.vision
        layers = []
        for index in range(vision.layers):
            prefix = f"encoder.layers.{index}."
            layers.append({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        encoder = reference.Encoder(layers, vision.heads, eps=1e-6)
        position = weights["embeddings.position_embedding.weight"]
        return cls(encoder, position, bundle, vision.layers, vision.image_size)

    def engine(self, role: str, variant: str = "default") -> Engine:
        return OrtBackend().open(self.bundle, read_manifest(self.bundle).graph(role, variant))  # type: ignore[arg-type]

    def empty(self, selection: str) -> State:
        inputs = read_manifest(self.bundle).graph("vit", selection).inputs
        return {s.name: np.zeros(s.static_shape, s.dtype) for s in inputs if s.name.endswith("_in")}

    def frames(self, count: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Patch embeddings of a moving scene, and its tokens from the least to the most similar to the frame before."""
        gate, found = self.engine("cacher_gate"), []
        before = np.zeros(self.position.shape, np.float32)
        for frame in scene(self.image_size, count):
            outputs = gate.run({"frame": frame, "reference": before}, {})
            before = outputs["patch_embeddings"]
            found.append((before, np.argsort(outputs["similarity"], kind="stable").astype(np.int64)))
        return found


class Plain:
    """The reference with its state, as the runtime carries it."""

    def __init__(self, subject: Subject, selection: str, update: str, metric: str = "cosine") -> None:
        self.subject, self.selection, self.update, self.metric = subject, selection, update, metric
        self.state: Any = None

    def encode(
        self, patches: NDArray[np.float32], indices: NDArray[np.int64], shares: reference.Shares | None = None
    ) -> torch.Tensor:
        encoder, x0 = self.subject.encoder, torch.from_numpy(patches).double() + self.subject.position
        if self.state is None:
            features, layers = reference.full(encoder, x0)
            self.state = reference.gate_state(layers) if self.selection == "gate" else layers
            return features
        if self.selection == "gate":
            features, state = reference.gate(encoder, x0, self.state, torch.from_numpy(indices), shares)
        else:
            ranked = reference.per_layer if self.selection == "per_layer" else reference.shared
            features, state, _ = ranked(encoder, x0, self.state, len(indices), self.metric)
        if self.update == "rolling" or len(indices) == len(patches):
            self.state = state
        return features

    def arrays(self) -> State:
        """The state under the names and in the shapes of the graph's inputs."""
        heads = self.subject.encoder.heads
        found: State = {}
        if self.selection == "gate":
            found["delta_in"] = self.state.delta.numpy()
            pairs = {"key": self.state.keys, "value": self.state.values}
        else:
            pairs = {name: [getattr(s, name) for s in self.state] for name in ("key", "value", "attention", "mlp")}
        for name, layers in pairs.items():
            for index, tensor in enumerate(layers):
                split = tensor.reshape(len(tensor), heads, -1).permute(1, 0, 2) if name in ("key", "value") else tensor
                found[f"{name}_{index}_in"] = split.numpy()
        return found


class Graph:
    """The exported graph with its state, as the runtime carries it."""

    def __init__(self, subject: Subject, selection: Selection, update: str, metric: Metric = "cosine") -> None:
        self.engine = subject.engine("vit", metric_variant(selection, metric))
        self.selection, self.update = selection, update
        self.state = subject.empty(selection)

    def encode(self, patches: NDArray[np.float32], indices: NDArray[np.int64], *, full: bool = False) -> NDArray[Any]:
        return self.follow(patches, Decision.overwriting("selective", indices), full=full)

    def follow(self, patches: NDArray[np.float32], decision: Decision, *, full: bool = False) -> NDArray[Any]:
        indices = decision.indices
        feeds = {"patch_embeddings": patches, **selection_feeds(self.selection, decision), **self.state}
        outputs = self.engine.run(feeds, {})
        features = outputs.pop("features")
        self.attention = outputs.pop("attention", None)
        if full or self.update == "rolling" or len(indices) == len(patches):
            self.state = {name.removesuffix("_out") + "_in": value for name, value in outputs.items()}
        return features


def check(subject: Subject, selection: str, update: str, ratio: float, frames: int, metric: Metric = "cosine") -> None:
    plain, graph = Plain(subject, selection, update, metric), Graph(subject, selection, update, metric)
    tokens = len(subject.position)
    count = max(1, int(tokens * ratio))
    for number, (patches, order) in enumerate(subject.frames(frames)):
        indices = np.arange(tokens, dtype=np.int64) if number == 0 else np.sort(order[:count])
        expected = plain.encode(patches, indices)
        assert relative_error(graph.encode(patches, indices, full=number == 0), expected) <= TOLERANCE, number
        state = plain.arrays()
        assert set(state) == set(graph.state)
        for name, array in graph.state.items():
            assert relative_error(array, state[name]) <= TOLERANCE, (number, name)


@pytest.fixture(scope="module", params=["tiny", "untied"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject.open(
        request.getfixturevalue(f"{request.param}_checkpoint"), request.getfixturevalue(f"{request.param}_bundle")
    )


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_selective_pass_over_a_scene_follows_the_reference(
    subject: Subject, selection: str, update: str, ratio: float
) -> None:
    check(subject, selection, update, ratio, FRAMES)


@pytest.mark.parametrize("ratio", [0.05, 0.25])
@pytest.mark.parametrize("metric", METRIC_NAMES)
@pytest.mark.parametrize("selection", ["per_layer", "shared"])
def test_selective_pass_with_any_metric_follows_the_reference(
    tiny_checkpoint: Path, tiny_whole_bundle: Path, selection: str, metric: Metric, ratio: float
) -> None:
    check(Subject.open(tiny_checkpoint, tiny_whole_bundle), selection, "rolling", ratio, FRAMES, metric)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selective_pass_at_the_sizes_of_siglip_follows_the_reference(
    siglip_checkpoint: Path, siglip_bundle: Path, selection: str
) -> None:
    check(Subject.open(siglip_checkpoint, siglip_bundle), selection, "rolling", 0.25, 3)


@pytest.mark.parametrize("fixture", ["tiny_bundle", "tiny_bundle_fp16"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_state_written_in_place_equals_state_in_buffers_of_its_own(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, selection: str, fixture: str
) -> None:
    """The runtime binds outputs to the memory of the inputs: no operator may read a cache that was written already."""
    subject = Subject.open(tiny_checkpoint, request.getfixturevalue("tiny_bundle"))
    scene_frames = subject.frames(4)
    subject = Subject(subject.encoder, subject.position, request.getfixturevalue(fixture), subject.layers, 70)
    engine, dtype = (
        subject.engine("vit", selection),
        read_manifest(subject.bundle).graph("vit", selection).inputs[0].dtype,
    )
    apart, inside = subject.empty(selection), subject.empty(selection)
    for number, (embeddings, order) in enumerate(scene_frames):
        patches = np.ascontiguousarray(embeddings, dtype)
        indices = np.sort(order[: 25 if number == 0 else 7])
        decision = Decision("selective", indices, np.full(len(indices), 0.5, "f"), np.full(len(indices), 0.1, "f"))
        call = {"patch_embeddings": patches, **selection_feeds(selection, decision)}
        outputs = engine.run({**call, **apart}, {})
        features = np.zeros_like(patches)
        into = {name.removesuffix("_in") + "_out": array for name, array in inside.items()}
        assert engine.run({**call, **inside}, {"features": features, **into}) == {}
        np.testing.assert_array_equal(features, outputs.pop("features"))
        apart = {name.removesuffix("_out") + "_in": value for name, value in outputs.items()}
        for name, array in inside.items():
            np.testing.assert_array_equal(array, apart[name])


@pytest.mark.parametrize("selection", SELECTIONS)
def test_pass_does_not_change_its_inputs(tiny_checkpoint: Path, tiny_bundle: Path, selection: str) -> None:
    subject = Subject.open(tiny_checkpoint, tiny_bundle)
    graph = Graph(subject, selection, "rolling")
    (first, _), (second, order) = subject.frames(2)
    graph.encode(first, np.arange(25, dtype=np.int64))
    kept = {name: array.copy() for name, array in graph.state.items()}
    state, patches = graph.state, second.copy()
    graph.encode(patches, order[:6])
    np.testing.assert_array_equal(patches, second)
    for name, array in state.items():
        np.testing.assert_array_equal(array, kept[name])


def test_order_of_the_indices_does_not_matter(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    subject = Subject.open(tiny_checkpoint, tiny_bundle)
    (first, _), (second, order) = subject.frames(2)
    results = []
    for indices in (np.sort(order[:9]), order[:9][::-1].copy()):
        graph = Graph(subject, "gate", "rolling")
        graph.encode(first, np.arange(25, dtype=np.int64))
        results.append(graph.encode(second, indices))
    assert relative_error(results[1], results[0]) <= 1e-6


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("count", [1, 7, 24, 25])
def test_gain_and_drift_over_a_scene_follow_the_reference(subject: Subject, update: str, count: int) -> None:
    plain, graph = Plain(subject, "gate", update), Graph(subject, "gate", update)
    random = np.random.default_rng(count)
    for number, (patches, order) in enumerate(subject.frames(FRAMES)):
        indices = np.arange(25, dtype=np.int64) if number == 0 else np.sort(order[:count])
        gain, drift = random.random((2, len(indices)), np.float32)
        if number == 0:
            gain[:], drift[:] = 1, 0
        expected = plain.encode(patches, indices, reference.Shares(torch.from_numpy(gain), torch.from_numpy(drift)))
        found = graph.follow(patches, Decision("selective", indices, gain, drift), full=number == 0)
        assert relative_error(found, expected) <= TOLERANCE, number
        assert relative_error(graph.state["delta_in"], plain.arrays()["delta_in"]) <= TOLERANCE, number


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_overflowed_does_not_stay_in_the_cache_nor_spread(
    tiny_checkpoint: Path, tiny_bundle: Path, bad: float
) -> None:
    subject = Subject.open(tiny_checkpoint, tiny_bundle)
    (first, _), (second, order) = subject.frames(2)
    everything, few = np.arange(25, dtype=np.int64), np.sort(order[:6])
    graph = Graph(subject, "gate", "rolling")
    graph.encode(first, everything)
    clean = {name: array.copy() for name, array in graph.state.items()}
    lost = few[2]
    clean["delta_in"][lost] = bad
    graph.state = {name: array.copy() for name, array in clean.items()}
    selective = Decision("selective", few, np.ones(6, np.float32), np.full(6, 0.1, np.float32))
    assert np.isfinite(graph.follow(second, selective)).all()
    assert np.isfinite(graph.state["delta_in"]).all()
    graph.state = clean
    full = Decision("full", everything, np.full(25, 0.75, np.float32), np.zeros(25, np.float32))
    features = graph.follow(second, full)
    fresh = Graph(subject, "gate", "rolling")
    assert relative_error(features, fresh.encode(second, everything)) <= TOLERANCE
    # Nothing was there to be kept of this token: it is cached as it was computed.
    assert relative_error(graph.state["delta_in"][lost], fresh.state["delta_in"][lost]) <= TOLERANCE
    assert np.isfinite(graph.state["delta_in"]).all()
