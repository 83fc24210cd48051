"""Pruning by attention in a stream: full frames as transformers has it, selective ones by what was recomputed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from stc_export.spec.errors import BundleError
from stc_export.spec.manifest import MANIFEST_NAME, manifest_from_text
from stc_export.spec.policy import CacherPolicy, GatePolicy, Policy, PrunerPolicy
from stc_runtime import Model, StreamSession
from stc_runtime.interface import check_interface
from stc_runtime.testing import FakeBackend
from tests.reference.pruners import lowest, visionzip
from tests.runtime.scenes import scene

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from stc_export.spec.policy import Selection
    from tests.runtime.conftest import Pair

ZIP = PrunerPolicy(method="visionzip", keep=0.4)


def kept_by_transformers(pair: Pair, frame: NDArray[np.uint8]) -> tuple[int, ...]:
    model = pair.reference.model.model
    model.vision_tower.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model.vision_tower(pair.reference.pixels([frame])[0], output_attentions=True).attentions[-1][0]
    grid = weights.double().mean(dim=(0, 1)).reshape(1, 1, 5, 5)
    resized = interpolate(grid, (3, 3), mode="bilinear").flatten().numpy()
    return tuple(lowest(-resized, 3).tolist())


def test_full_frames_keep_what_received_most_attention_in_transformers(
    tiny_pair: Pair, tiny_whole_bundle: Path
) -> None:
    frames = scene(6)
    with StreamSession.open(tiny_whole_bundle, Policy(GatePolicy("off"), pruner=ZIP)) as session:
        found = [session.push(frame, float(second)).kept_indices for second, frame in enumerate(frames)]
    assert found == [kept_by_transformers(tiny_pair, frame) for frame in frames]


def test_contextual_tokens_of_full_frames_are_merged_by_the_keys_of_transformers(
    tiny_pair: Pair, tiny_whole_bundle: Path
) -> None:
    """Of 9 tokens 6 stay, one of them contextual: the formula on what transformers gives, resized like the tokens."""
    vision = tiny_pair.reference.model.model.vision_tower
    vision.set_attn_implementation("eager")
    policy = Policy(GatePolicy("off"), pruner=PrunerPolicy("visionzip", 6 / 9))
    with StreamSession.open(tiny_whole_bundle, policy) as session, torch.no_grad():
        for second, frame in enumerate(scene(4)):
            kept = session.push(frame, float(second)).kept_indices
            out = vision(tiny_pair.reference.pixels([frame])[0], output_attentions=True, output_hidden_states=True)
            last = vision.encoder.layers[-1]
            keys = last.self_attn.k_proj(last.layer_norm1(out.hidden_states[-2][0]))
            numbers = torch.cat([out.attentions[-1][0].mean((0, 1))[:, None], _mean_of_heads(tiny_pair, keys)], dim=1)
            resized = interpolate(numbers.T.reshape(1, -1, 5, 5), (3, 3), mode="bilinear").flatten(2)[0].T.numpy()
            tokens = tiny_pair.reference.visual_tokens([frame])[0].numpy()
            expected, indices = visionzip(tokens, resized[:, 0], resized[:, 1:], 6)
            assert kept == tuple(indices.tolist())
            np.testing.assert_allclose(session.visual_tokens, expected, atol=1e-4 * np.abs(expected).max())


def _mean_of_heads(pair: Pair, keys: torch.Tensor) -> torch.Tensor:
    heads = pair.reference.model.config.vision_config.num_attention_heads
    return keys.unflatten(-1, (heads, -1)).mean(dim=1)


@pytest.mark.parametrize("selection", ["gate", "per_layer", "shared"])
def test_selective_frame_of_all_tokens_keeps_what_a_full_one_keeps(
    tiny_whole_bundle: Path, selection: Selection
) -> None:
    kept = []
    for ratio, mode in ((1.0, "paper"), (1.0, "off"), (0.2, "paper")):
        policy = Policy(GatePolicy(mode), CacherPolicy(selection, update_ratio=ratio), ZIP)  # type: ignore[arg-type]
        with StreamSession.open(tiny_whole_bundle, policy) as session:
            kept.append([session.push(frame, float(second)).kept_indices for second, frame in enumerate(scene(4))])
    assert kept[0] == kept[1]
    assert [len(indices) for indices in kept[2]] == [3] * 4


def test_bundle_without_attention_says_how_to_build_it(tiny_model: Model) -> None:
    with pytest.raises(BundleError) as caught:
        StreamSession(tiny_model, Policy(pruner=ZIP))
    assert caught.value.problem.startswith('The bundle has no pruner graph "visionzip"; it has: none, ')
    assert caught.value.fix == "Choose one of these in the policy, or build the bundle again with --attention."


def test_manifest_whose_vit_does_not_give_what_the_method_takes_is_refused(tiny_whole_bundle: Path) -> None:
    manifest = manifest_from_text((tiny_whole_bundle / MANIFEST_NAME).read_text(encoding="utf-8"), "whole")
    check_interface(manifest, "whole")
    graphs = tuple(
        replace(g, outputs=tuple(o for o in g.outputs if o.name != "attention")) if g.variant == "shared" else g
        for g in manifest.graphs
    )
    with pytest.raises(BundleError) as caught:
        check_interface(replace(manifest, graphs=graphs), "whole")
    told = '"graphs/pruner.visionzip.onnx" takes attention, which "graphs/vit.shared.onnx" does not give'
    assert caught.value.problem == f'The manifest of "whole" contradicts itself: {told}.'


def test_fake_backend_runs_a_bundle_with_attention(tiny_whole_bundle: Path) -> None:
    with StreamSession.open(tiny_whole_bundle, Policy(pruner=ZIP), FakeBackend()) as session:
        reports = [session.push(frame, float(second)) for second, frame in enumerate(scene(4))]
    assert next(report.kept_tokens for report in reports if report.mode != "skip") == 3
