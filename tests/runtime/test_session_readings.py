"""What a session gives out of a stream besides answers, and that reading it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stc_export.spec.errors import SessionStateError
from stc_export.spec.policy import GatePolicy, Policy, named_policies
from stc_runtime import Model, StreamSession
from stc_runtime.encoder import selection_feeds
from stc_runtime.gate import Decision
from stc_runtime.preprocess import Resizer
from stc_runtime.testing import FakeBackend
from tests.runtime.scenes import Recorder, Workshop, scene, watch

PAPER = named_policies()["paper"]


@pytest.fixture(scope="module")
def workshop(tiny_bundle: Path) -> Workshop:
    recorder = Recorder()
    return Workshop(Model.open(tiny_bundle, recorder), recorder)


def plain_features(model: Model, frame: np.ndarray) -> np.ndarray:
    """Features of a frame from the graphs themselves: all tokens, nothing remembered."""
    graph = model.manifest.graph("vit", "gate")
    ports = {spec.name: np.zeros(spec.static_shape, spec.dtype) for spec in graph.inputs if spec.name.endswith("_in")}
    vision = model.manifest.dims.vision
    small = Resizer(model.manifest.preprocess)(frame)
    reference = np.zeros((vision.tokens, vision.width), model.dtype)
    embeddings = model.engine("cacher_gate").run({"frame": small, "reference": reference}, {})["patch_embeddings"]
    indices = np.arange(vision.tokens, dtype=np.int64)
    everything = selection_feeds("gate", Decision.overwriting("full", indices))
    feeds = {"patch_embeddings": embeddings, **everything, **ports}
    return model.engine("vit", "gate").run(feeds, {})["features"]


def test_features_of_every_frame_without_compression_are_those_of_the_graphs(workshop: Workshop) -> None:
    with workshop.session(named_policies()["off"]) as session:
        for number, frame in enumerate(scene(2)):
            session.push(frame, float(number))
            expected = plain_features(workshop.model, frame)
            assert np.abs(session.features - expected).max() <= 1e-6 * np.abs(expected).max()


def test_features_of_a_selective_frame_differ_from_the_dense_ones(workshop: Workshop) -> None:
    with workshop.session(PAPER) as session:
        watch(session, 0, 2)
        dense = plain_features(workshop.model, scene(2)[1])
        assert np.abs(session.features - dense).max() > 1e-3 * np.abs(dense).max()


def test_features_that_were_read_are_a_copy_and_a_skipped_frame_keeps_them(workshop: Workshop) -> None:
    (frame,) = scene(1)
    with workshop.session(Policy(gate=GatePolicy(warmup=1))) as session:
        session.push(frame, 0.0)
        first = session.features
        kept = first.copy()
        assert session.push(frame, 1.0).mode == "skip"
        assert session.features.tobytes() == kept.tobytes()
        session.push(255 - frame, 2.0)
        assert session.features.tobytes() != kept.tobytes()
        assert first.tobytes() == kept.tobytes()


def test_visual_tokens_are_what_the_llm_was_fed(workshop: Workshop) -> None:
    with workshop.session(PAPER) as session:
        for number, frame in enumerate(scene(3)):
            report = session.push(frame, float(number))
            assert session.visual_tokens.tobytes() == workshop.recorder.embeds()[-1].tobytes()
            assert len(session.visual_tokens) == report.kept_tokens
            assert workshop.recorder.kept()[-1] == list(report.kept_indices)


def test_first_logits_are_those_of_the_question_and_not_of_what_follows(workshop: Workshop) -> None:
    with workshop.session() as session:
        watch(session, 0, 2)
        calls = len(workshop.recorder.calls["llm"])
        pieces = [piece for piece in session.ask("What moves?", max_tokens=4) if piece.token >= 0]
        assert session.first_logits.tobytes() == workshop.recorder.logits()[calls].tobytes()
        assert int(session.first_logits.argmax()) == pieces[0].token
        assert len(workshop.recorder.calls["llm"]) > calls + 1


def test_reading_changes_no_bit_of_the_stream(workshop: Workshop) -> None:
    def streamed(*, reads: bool) -> list[bytes]:
        with workshop.session(PAPER) as session:

            def go() -> None:
                for number, frame in enumerate(scene(4)):
                    session.push(frame, float(number))
                    if reads:
                        _ = session.features, session.visual_tokens, session.first_logits
                list(session.ask("What moves?", max_tokens=4))

            return workshop.heard(go)

    assert streamed(reads=True) == streamed(reads=False)


def test_a_new_session_and_one_after_reset_have_nothing_to_read(workshop: Workshop) -> None:
    dims = workshop.model.manifest.dims
    with workshop.session() as session:
        for _ in range(2):
            assert session.features.shape == (dims.vision.tokens, dims.vision.width)
            assert not session.features.any()
            assert session.visual_tokens.shape == (0, dims.text.width)
            assert session.first_logits.shape == (0,)
            watch(session, 0, 1)
            list(session.ask("What moves?", max_tokens=1))
            assert session.features.any()
            session.reset()


def test_features_are_refused_while_an_answer_is_not_finished_and_when_closed(workshop: Workshop) -> None:
    session = workshop.session()
    watch(session, 0, 1)
    answer = session.ask("What moves?")
    next(answer)
    with pytest.raises(SessionStateError, match="not finished"):
        _ = session.features
    answer.close()
    session.close()
    with pytest.raises(SessionStateError, match="closed"):
        _ = session.features


def test_sessions_on_the_model_of_another_do_not_influence_it(workshop: Workshop) -> None:
    with workshop.session() as session, StreamSession(session.model, PAPER) as beside:
        watch(session, 0, 1)
        before = session.features
        watch(beside, 1, 1)
        assert session.features.tobytes() == before.tobytes()
        assert beside.remembered_frames == session.remembered_frames == 1


def test_features_have_the_type_of_the_bundle(tiny_bundle_fp16: Path) -> None:
    with StreamSession.open(tiny_bundle_fp16, backend=FakeBackend()) as session:
        watch(session, 0, 1)
        assert session.features.dtype == session.visual_tokens.dtype == np.float16
        assert session.first_logits.dtype == np.float32
