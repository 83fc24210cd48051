"""A stream in the original model against the same stream through the bundle, and what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stc_export.reference.attention import ATTENTIONS, find_attention
from stc_export.reference.model import TorchModel, open_model
from stc_export.reference.session import TorchSession
from stc_export.spec.errors import (
    CheckpointError,
    MissingDependencyError,
    QuestionError,
    SessionStateError,
    UnsupportedError,
)
from stc_export.spec.policy import CacherPolicy, GatePolicy, MemoryPolicy, Policy, PrunerPolicy, named_policies
from stc_runtime.model import Model
from stc_runtime.session import StreamSession

QUESTION = "What is on the table?"
SMALL = MemoryPolicy(30, 32, "original")
POLICIES = {
    **named_policies(),
    "shared": Policy(GatePolicy(mode="paper"), CacherPolicy("shared", "rolling", 3, 0.4), PrunerPolicy("random", 0.5)),
    "l1": Policy(GatePolicy("paper"), CacherPolicy("gate", "rolling", 3, 0.4, "l1"), PrunerPolicy("evs", 0.5)),
    "l2": Policy(GatePolicy("paper"), CacherPolicy("per_layer", "reference", 3, 0.4, "l2"), PrunerPolicy("vcast", 0.5)),
    "dot": Policy(GatePolicy("paper"), CacherPolicy("shared", "rolling", 3, 0.4, "dot"), PrunerPolicy("stride", 0.5)),
    "visionzip": Policy(GatePolicy("off"), pruner=PrunerPolicy("visionzip", 0.5), memory=SMALL),
    "visionzip gate": Policy(pruner=PrunerPolicy("visionzip", 0.7, budget="vidcom2")),
    "visionzip layers": Policy(
        GatePolicy("paper"), CacherPolicy("per_layer", "reference", 3, 0.4), PrunerPolicy("visionzip", 0.5)
    ),
    "budget vidcom2": Policy(GatePolicy("off"), pruner=PrunerPolicy("vidcom2", 0.4, history=3, budget="vidcom2")),
    "budget dtd": Policy(GatePolicy("off"), pruner=PrunerPolicy("evs", budget="dtd", threshold=0.99), memory=SMALL),
    "budget evs": Policy(GatePolicy("off"), pruner=PrunerPolicy("evs", 0.4, history=3, budget="evs")),
    "budget dycoke": Policy(GatePolicy("off"), pruner=PrunerPolicy("stc_gaussian", 0.6, budget="dycoke")),
    "forgets": replace(named_policies()["paper"], memory=SMALL),
}


def frames() -> list[NDArray[np.uint8]]:
    """A noisy scene in which a patch moves, so that no two tokens change equally."""
    draws = np.random.default_rng(3)
    scene = draws.integers(0, 256, (70, 70, 3))
    shown = []
    for number in range(9):
        moved = scene + draws.integers(-6, 7, scene.shape)
        moved[20:40, 5 * number : 5 * number + 20] = draws.integers(0, 256, 3)
        shown.append(np.clip(moved, 0, 255).astype(np.uint8))
    return shown


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def original(request: pytest.FixtureRequest, tiny_whole_bundle: Path, tiny_checkpoint: Path) -> TorchModel:
    return open_model(tiny_whole_bundle, tiny_checkpoint, ATTENTIONS[request.param])


@pytest.mark.parametrize("name", POLICIES)
def test_stream_does_and_answers_what_the_bundle_does(name: str, original: TorchModel, tiny_whole_bundle: Path) -> None:
    policy = POLICIES[name]
    bundle, torch = StreamSession(Model.open(tiny_whole_bundle), policy), TorchSession(original, policy)
    counts = set()
    for number, frame in enumerate(frames()):
        expected, found = bundle.push(frame, float(number)), torch.push(frame, float(number))
        counts.add(found.kept_tokens)
        assert found.similarity == pytest.approx(expected.similarity, abs=1e-5)
        assert found.change == pytest.approx(expected.change, rel=1e-3)
        times = dict.fromkeys(("gate_ms", "vit_ms", "pruner_ms", "prefill_ms", "similarity", "change"), 0.0)
        assert replace(found, **times) == replace(expected, **times)
        if number % 4 == 3:
            asked = [[piece.token for piece in s.ask(QUESTION, max_tokens=6)] for s in (bundle, torch)]
            assert asked[0] == asked[1]
    assert policy.pruner.budget == "fixed" or len(counts) > 1


def test_question_and_reset_leave_the_stream_as_it_was(original: TorchModel) -> None:
    session, fresh = (TorchSession(original, Policy()) for _ in range(2))
    for frame in frames():
        session.push(frame, 0.0)
        list(session.ask(QUESTION, max_tokens=3))
    session.reset()
    for frame in frames()[:4]:
        session.push(frame, 0.0)
        next(session.ask(QUESTION, max_tokens=5))  # an answer that nobody reads to its end
        fresh.push(frame, 0.0)
    given = [tuple(piece.text for piece in one.ask(QUESTION, max_tokens=8)) for one in (session, fresh)]
    assert given[0] == given[1]


def test_wrong_order_is_refused(original: TorchModel) -> None:
    session = TorchSession(original, Policy())
    with pytest.raises(SessionStateError, match="before any frame"):
        next(session.ask(QUESTION))
    session.push(frames()[0], 0.0)
    with pytest.raises(QuestionError, match="max_tokens is 0"):
        next(session.ask(QUESTION, max_tokens=0))
    with pytest.raises(QuestionError, match="expected some text"):
        next(session.ask(" "))
    session.close()
    with pytest.raises(SessionStateError, match="closed"):
        session.push(frames()[0], 0.0)


def test_method_without_a_reference_is_told_with_those_that_have_one(original: TorchModel) -> None:
    with pytest.raises(UnsupportedError, match=r'no pruning method "strid".*Did you mean "stride"'):
        TorchSession(original, Policy(pruner=PrunerPolicy("strid")))


def test_another_checkpoint_of_the_same_sizes_is_refused(
    tiny_bundle: Path, new_layout_checkpoint: Path, untied_checkpoint: Path, medium_checkpoint: Path
) -> None:
    eager = ATTENTIONS["eager"]
    assert open_model(tiny_bundle, new_layout_checkpoint, eager).manifest.model.name == "tiny"  # the same weights
    with pytest.raises(CheckpointError, match="other architecture or sizes"):
        open_model(tiny_bundle, medium_checkpoint, eager)
    with pytest.raises(CheckpointError, match=r"other (architecture or sizes|weights)"):
        open_model(tiny_bundle, untied_checkpoint, eager)


def test_checkpoint_with_other_weights_is_refused(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    other = Path(shutil.copytree(tiny_checkpoint, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    name = next(key for key in weights if key.endswith("embed_tokens.weight"))
    weights[name] = weights[name] + np.float32(1e-3)
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r'other weights \(table "embed"\)'):
        open_model(tiny_bundle, other, ATTENTIONS["eager"])


def test_attention_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r'--attention is "spda". Did you mean "sdpa"'):
        find_attention("spda")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match='needs the Python package "flash_attn"'):
        find_attention("flash_attention_2")
